"""The privacy that a run may spend and has spent: an exact bound for repeated Gaussian noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from aegis_fl_coordinator.domain.errors import InvalidRunConfig
from aegis_fl_coordinator.domain.strategies import KNOWN, Aggregation

DELTA: Final = 1e-5
_STEPS: Final = 100
_FAR: Final = 25.0
_ROUNDING: Final = 1e-9
_USELESS: Final = 100.0
"""An epsilon beyond which a run without a budget is told that its noise is too little, as a hint only."""
_FIELD: Final = "training_run.privacy"


@dataclass(frozen=True, slots=True)
class LocalNoise:
    """Noise that each node adds to its own update.

    Attributes:
        clipping_norm: L2 norm that the update is clipped to first. Range: above 0.
        noise_multiplier: Standard deviation as a multiple of twice that norm. Range: above 0.
    """

    clipping_norm: float
    noise_multiplier: float


@dataclass(frozen=True, slots=True)
class Privacy:
    """What a run may spend of its nodes' privacy.

    Attributes:
        epsilon_budget: Most epsilon; None for any.
        delta: Of every epsilon of the run. Range: above 0, below 1.
        local: Noise of the nodes, or None.
    """

    epsilon_budget: float | None = None
    delta: float = DELTA
    local: LocalNoise | None = None


def noise_of(aggregation: Aggregation, privacy: Privacy) -> float | None:
    """Return the noise multiplier of one release of a run; None when none is known beforehand."""
    if privacy.local is not None:
        return privacy.local.noise_multiplier
    known = KNOWN.get(aggregation.strategy)
    return float(aggregation.parameters["noise_multiplier"]) if known and known.wraps else None


def check_privacy(aggregation: Aggregation, privacy: Privacy, *, rounds: int) -> None:
    """Return when a run of *rounds* rounds can keep what *privacy* asks for.

    Args:
        aggregation: How updates become the next model; checked before.
        privacy: What is asked for.
        rounds: Rounds to train. Each is one release; that nodes are sampled is not counted in favour.

    Raises:
        InvalidRunConfig: Nothing adds noise whose epsilon is known, or too little of it for so many rounds.
    """
    known = KNOWN.get(aggregation.strategy)
    if privacy.local is not None and known is not None and (fault := _clash(aggregation.strategy)):
        raise _refused("local_noise", fault)
    noise = noise_of(aggregation, privacy)
    if noise is None:
        if privacy.epsilon_budget is not None:
            raise _refused(
                "epsilon_budget",
                "nothing in this run adds noise whose epsilon is known: choose a strategy of differential "
                "privacy, or local_noise; for a class of the app's own no epsilon is known",
            )
        return
    spent = gaussian_epsilon(noise, rounds, delta=privacy.delta)
    least = least_noise(privacy.epsilon_budget or _USELESS, rounds, delta=privacy.delta)
    if spent is None:
        fault = (
            f"{noise:g} is too little noise for {rounds} rounds: no useful epsilon exists; take {_up(least)}"
        )
        raise _refused("local_noise" if privacy.local else "epsilon_budget", f"the noise multiplier {fault}")
    if privacy.epsilon_budget is not None and spent > privacy.epsilon_budget:
        most = _most_releases(privacy.epsilon_budget, noise, privacy.delta)
        fits = f"at most {most} rounds fit" if most else "not one round fits"
        raise _refused(
            "epsilon_budget",
            f"{rounds} rounds with noise multiplier {noise:g} spend epsilon {spent:.4g} (delta "
            f"{privacy.delta:g}), more than {privacy.epsilon_budget:g}: {fits}, or take a noise multiplier "
            f"of at least {_up(least)}",
        )


def budget_fault(aggregation: Aggregation, privacy: Privacy, *, releases: int) -> str:
    """Return why another release is one too many for the budget, or an empty string.

    Args:
        aggregation: Of the run.
        privacy: Of the run.
        releases: Releases after the next one.
    """
    budget, noise = privacy.epsilon_budget, noise_of(aggregation, privacy)
    if budget is None or noise is None:
        return ""
    after = gaussian_epsilon(noise, releases, delta=privacy.delta)
    if after is not None and after <= budget:
        return ""
    before = gaussian_epsilon(noise, releases - 1, delta=privacy.delta)
    of = f"{before:.4g} of {budget:g}" if before is not None else f"more than {budget:g}"
    return (
        f"the privacy budget is spent: epsilon {of} (delta {privacy.delta:g}) after {releases - 1} releases "
        "with noise; another one would exceed it"
    )


def _clash(strategy: str) -> str:
    known = KNOWN[strategy]
    if known.wraps:
        return f"{strategy} adds noise on the server; a run has one of the two"
    if not known.shaped:
        return f"{strategy} aggregates trees, which no noise can be added to"
    if "train_loss_key" in known.texts:
        return f"{strategy} weighs nodes by their loss, which local noise keeps from leaving them"
    return ""


def _up(value: float) -> str:
    """Return *value* in four digits, rounded up: whoever takes it gets what was promised."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 3)
    return f"{math.ceil(value / unit) * unit:.4g}"


def _refused(name: str, fault: str) -> InvalidRunConfig:
    return InvalidRunConfig(f"privacy: {name}: {fault}", violations={f"{_FIELD}.{name}": fault})


def gaussian_epsilon(noise_multiplier: float, releases: int, *, delta: float = DELTA) -> float | None:
    """Return the smallest epsilon such that the releases together are (epsilon, delta)-private.

    Each release has Gaussian noise whose standard deviation is `noise_multiplier` times what one node can
    move the released sum by: with noise of the server the norm C of its clipped update, which counts as 0 in
    the neighbouring case; with noise of the node itself 2 C. That random nodes are sampled is not counted in
    favour, so the bound holds for every way of sampling. Composition of Gaussian mechanisms is
    exact: n of them are one with mu = sqrt(n) / noise_multiplier (Dong, Roth, Su: Gaussian Differential
    Privacy, 2019, corollary 3.3 and 2.13).

    Args:
        noise_multiplier: Range: 0 and up.
        releases: How many sums were released. Range: 0 and up.
        delta: Range: above 0, below 1.

    Returns:
        Epsilon, or None when there is no noise or so little that no useful bound exists.
    """
    if releases == 0:
        return 0.0
    if noise_multiplier <= 0:
        return None
    mu = math.sqrt(releases) / noise_multiplier
    return None if mu > _FAR else _epsilon(mu, delta)


def least_noise(epsilon: float, releases: int, *, delta: float = DELTA) -> float:
    """Return the least noise multiplier with which *releases* releases spend at most *epsilon*."""
    low, high = 0.0, _FAR
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if _delta(epsilon, middle) <= delta else (low, middle)
    return math.sqrt(releases) / low if low else math.inf


def _most_releases(epsilon: float, noise_multiplier: float, delta: float) -> int:
    return int((noise_multiplier / least_noise(epsilon, 1, delta=delta)) ** 2 + _ROUNDING)


def _epsilon(mu: float, delta: float) -> float:
    low, high = 0.0, mu * mu / 2 + mu * math.sqrt(2 * math.log(1 / delta))
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if _delta(middle, mu) > delta else (low, middle)
    return high


def _delta(epsilon: float, mu: float) -> float:
    """Return the least delta for which a Gaussian mechanism of *mu* is (epsilon, delta)-private."""
    second = _below(-epsilon / mu - mu / 2)
    # exp(epsilon) may overflow where its factor is 0.
    return _below(-epsilon / mu + mu / 2) - (math.exp(epsilon + math.log(second)) if second else 0.0)


def _below(x: float) -> float:
    """Return the standard normal distribution function."""
    return math.erfc(-x / math.sqrt(2)) / 2
