"""What a site lets runs do with its data: which apps, how many rounds, and how much noise there must be."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from aegis_common.errors import AegisError, ErrorKind
from aegis_fl_coordinator.domain.privacy import DELTA, gaussian_epsilon

SCHEMA_VERSION: Final = 1
ANY: Final = "any"
TRAIN: Final = "train"
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


class InvalidSitePolicy(AegisError):
    """A site's policy cannot be read; the message names the key, what is wrong and what to write."""

    kind = ErrorKind.INVALID_ARGUMENT
    reason = "INVALID_SITE_POLICY"


@dataclass(frozen=True, slots=True)
class NoiseRule:
    """Noise that a run has to ask of this node.

    Attributes:
        min_noise_multiplier: See `LocalNoise`. Range: above 0.
        max_epsilon: Of all updates of all runs that this node has ever sent, together; None for any.
        delta: Of that epsilon. Range: above 0, below 1.
    """

    min_noise_multiplier: float
    max_epsilon: float | None = None
    delta: float = DELTA


@dataclass(frozen=True, slots=True)
class SitePolicy:
    """A site's own decision, whatever the coordinator's admin has approved.

    Attributes:
        apps: SHA-256 digests of the bundles that may run here; None for any.
        max_rounds: Rounds of one run that this node trains in; None for any.
        noise: None when no noise is asked for.
    """

    apps: frozenset[str] | None
    max_rounds: int | None = None
    noise: NoiseRule | None = None


@dataclass(frozen=True, slots=True)
class Ask:
    """A message to this node.

    Attributes:
        app_sha256: Digest of the bundle whose code it would run.
        run: Id of the run.
        kind: `train`, or what else Flower knows, such as `evaluate`.
        noise_multiplier: Noise that it asks for; None when it asks for none.
    """

    app_sha256: str
    run: str
    kind: str
    noise_multiplier: float | None = None


@dataclass(frozen=True, slots=True)
class Spent:
    """What this node has done so far.

    Attributes:
        rounds: Messages of training by run.
        inverse_squares: Sum of 1 / noise multiplier squared over its updates: Gaussian mechanisms with it are
            one with the noise multiplier 1 / sqrt(sum).
    """

    rounds: Mapping[str, int] = field(default_factory=dict)
    inverse_squares: float = 0.0

    def after(self, ask: Ask) -> Spent:
        """Return what it will be when *ask* is done."""
        if ask.kind != TRAIN:
            return self
        rounds = {**self.rounds, ask.run: self.rounds.get(ask.run, 0) + 1}
        noise = ask.noise_multiplier
        return replace(
            self, rounds=rounds, inverse_squares=self.inverse_squares + (1 / noise**2 if noise else 0.0)
        )

    def epsilon(self, delta: float) -> float | None:
        """Return the epsilon of all updates with noise together; None when no useful bound exists."""
        if not self.inverse_squares:
            return 0.0
        return gaussian_epsilon(1 / math.sqrt(self.inverse_squares), 1, delta=delta)


def refusal(policy: SitePolicy, ask: Ask, spent: Spent) -> str:
    """Return why this site does not do what is asked, or an empty string."""
    if policy.apps is not None and ask.app_sha256 not in policy.apps:
        return f"the digest {ask.app_sha256} of the app is not among the site's apps"
    if ask.kind == TRAIN and policy.max_rounds is not None:
        done = spent.rounds.get(ask.run, 0)
        if done >= policy.max_rounds:
            return f"the run has had its {policy.max_rounds} rounds here (max_rounds)"
    return _noise_refusal(policy.noise, ask, spent) if policy.noise is not None else ""


def _noise_refusal(rule: NoiseRule, ask: Ask, spent: Spent) -> str:
    if ask.kind != TRAIN:
        return f"a message of kind {ask.kind!r} would be answered without noise, and the site asks for noise"
    least = rule.min_noise_multiplier
    if ask.noise_multiplier is None:
        return f"the run asks for no noise: give it local_noise with a noise multiplier of at least {least:g}"
    if not ask.noise_multiplier >= least:
        return f"the noise multiplier {ask.noise_multiplier:g} is below the site's {least:g}"
    if rule.max_epsilon is None:
        return ""
    after = spent.after(ask).epsilon(rule.delta)
    if after is None or after > rule.max_epsilon:
        before = spent.epsilon(rule.delta)
        of = "more than it may" if before is None else f"epsilon {before:.4g} of {rule.max_epsilon:g}"
        return f"the node has spent {of} (delta {rule.delta:g}), and another update would exceed it"
    return ""


def policy_from(record: object) -> SitePolicy:
    """Return the policy that *record*, the content of `site-policy.yaml`, states.

    Raises:
        InvalidSitePolicy: It is none; names the first key that is wrong.
    """
    found = _mapping(record, "the policy", {"schema_version", "apps", "max_rounds", "privacy"})
    if found.get("schema_version") != SCHEMA_VERSION:
        raise InvalidSitePolicy(
            f"schema_version is {found.get('schema_version')!r}; this version knows {SCHEMA_VERSION}"
        )
    return SitePolicy(
        apps=_apps(found.get("apps")),
        max_rounds=_max_rounds(found.get("max_rounds")),
        noise=_noise(found["privacy"]) if found.get("privacy") is not None else None,
    )


def _apps(value: object) -> frozenset[str] | None:
    if value == ANY:
        return None
    if not isinstance(value, list):
        raise InvalidSitePolicy(f"apps is {value!r}; write a list of SHA-256 digests, or {ANY} for every app")
    for digest in value:
        if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
            raise InvalidSitePolicy(
                f"apps: {digest!r} is no SHA-256 digest of 64 lower-case hex digits; write it in quotes"
            )
    return frozenset(value)


def _max_rounds(value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidSitePolicy(
            f"max_rounds is {value!r}; write a whole number of at least 1, or leave it out"
        )
    return value


def _noise(value: object) -> NoiseRule:
    found = _mapping(value, "privacy", {"min_noise_multiplier", "max_epsilon", "delta"})
    if "min_noise_multiplier" not in found:
        raise InvalidSitePolicy(
            "privacy lacks min_noise_multiplier, the least noise that a run has to ask for"
        )
    most, delta = found.get("max_epsilon"), found.get("delta")
    return NoiseRule(
        min_noise_multiplier=_number(found["min_noise_multiplier"], "privacy.min_noise_multiplier"),
        max_epsilon=None if most is None else _number(most, "privacy.max_epsilon"),
        delta=DELTA if delta is None else _number(delta, "privacy.delta", below=1.0),
    )


def _number(value: object, name: str, *, below: float = math.inf) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < below:
        limit = f", below {below:g}" if math.isfinite(below) else ""
        raise InvalidSitePolicy(f"{name} is {value!r}; write a number above 0{limit}")
    return float(value)


def _mapping(value: object, name: str, known: set[str]) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InvalidSitePolicy(f"{name} is {value!r}; write keys and values")
    for key in value:
        if key not in known:
            raise InvalidSitePolicy(f"{name} has the key {key!r}; known are {', '.join(sorted(known))}")
    return value
