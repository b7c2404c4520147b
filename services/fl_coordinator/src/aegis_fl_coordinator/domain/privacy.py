"""The privacy that a run has spent: an exact bound for repeated Gaussian noise."""

from __future__ import annotations

import math
from typing import Final

DELTA: Final = 1e-5
_STEPS: Final = 100
_FAR: Final = 25.0


def gaussian_epsilon(noise_multiplier: float, releases: int, *, delta: float = DELTA) -> float | None:
    """Return the smallest epsilon such that the releases together are (epsilon, delta)-private.

    Each release is a sum of updates of L2 norm at most C, with Gaussian noise of standard deviation
    `noise_multiplier` * C; neighbours differ by one node's update. That random nodes are sampled is not
    counted in favour, so the bound holds for every way of sampling. Composition of Gaussian mechanisms is
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
    if mu > _FAR:
        return None
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
