"""Flower's strategies by name: their parameters, and how many nodes each needs to keep its promise."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from aegis_fl_coordinator.domain.errors import InvalidRunConfig

ParameterValue = bool | int | float | str
_FIELD: Final = "training_run.aggregation"
_CUSTOM: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Parameter:
    """A number that a strategy takes.

    Attributes:
        least: Lowest value.
        most: Highest value.
        above: True when *least* itself is too low.
        below: True when *most* itself is too high.
        whole: True for an integer.
        required: True when Flower has no default.
    """

    least: float = 0.0
    most: float = math.inf
    above: bool = False
    below: bool = False
    whole: bool = False
    required: bool = False

    def fault(self, value: object) -> str:
        """Return what is wrong with *value*, or an empty string."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return f"{value!r} is no number"
        if self.whole and value != int(value):
            return f"{value} is no whole number"
        low = value <= self.least if self.above else value < self.least
        high = value >= self.most if self.below else value > self.most
        return f"{value} is out of range: {self._range()}" if low or high else ""

    def _range(self) -> str:
        low = f"{'above' if self.above else 'at least'} {self.least:g}"
        high = f", {'below' if self.below else 'at most'} {self.most:g}"
        return low + (high if math.isfinite(self.most) else "")


_POSITIVE: Final = Parameter(above=True)
_SHARE: Final = Parameter(most=1.0, below=True)
_COUNT: Final = Parameter(whole=True)
_ETA: Final[Mapping[str, Parameter]] = {"eta": _POSITIVE, "eta_l": _POSITIVE, "tau": _POSITIVE}
_BETAS: Final[Mapping[str, Parameter]] = {"beta_1": _SHARE, "beta_2": _SHARE}
_NOISE: Final[Mapping[str, Parameter]] = {"noise_multiplier": Parameter(above=True, required=True)}
_FIXED: Final = {**_NOISE, "clipping_norm": Parameter(above=True, required=True)}
_ADAPTIVE: Final = {
    **_NOISE,
    "initial_clipping_norm": _POSITIVE,
    "target_clipped_quantile": Parameter(most=1.0),
    "clip_norm_lr": _POSITIVE,
    "clipped_count_stddev": Parameter(),
}


def _no_need(values: Mapping[str, ParameterValue], nodes: int) -> str:  # noqa: ARG001
    return ""


def _krum(values: Mapping[str, ParameterValue], nodes: int) -> str:
    malicious = int(values.get("num_malicious_nodes", 0))
    selected = int(values.get("num_nodes_to_select", 1))
    if nodes < 2 * malicious + 3:
        return f"with num_malicious_nodes f={malicious} it needs 2f+3 = {2 * malicious + 3} nodes a round"
    if selected > nodes - malicious:
        return f"num_nodes_to_select is {selected}; of {nodes} nodes at most {nodes - malicious} are trusted"
    return ""


def _bulyan(values: Mapping[str, ParameterValue], nodes: int) -> str:
    malicious = int(values.get("num_malicious_nodes", 0))
    if nodes < 4 * malicious + 3:
        return f"with num_malicious_nodes f={malicious} it needs 4f+3 = {4 * malicious + 3} nodes a round"
    return ""


def _trimmed(values: Mapping[str, ParameterValue], nodes: int) -> str:
    beta = float(values.get("beta", 0.2))
    if beta and int(beta * nodes) < 1:
        return f"beta {beta:g} of {nodes} nodes trims nothing; it needs {math.ceil(1 / beta)} nodes a round"
    return ""


def _adaptive(values: Mapping[str, ParameterValue], nodes: int) -> str:
    # Andrew et al. (2021), theorem 1: the noisy count of clipped updates takes its part of the privacy.
    limit = 2 * float(values.get("clipped_count_stddev", nodes / 20))
    if float(values["noise_multiplier"]) < limit:
        return ""
    return f"it needs a noise_multiplier below {limit:g}, twice its clipped_count_stddev; raise that one"


def _median(values: Mapping[str, ParameterValue], nodes: int) -> str:  # noqa: ARG001
    return "" if nodes >= 3 else "a median needs 3 nodes a round to leave an outlier out"


@dataclass(frozen=True, slots=True)
class Known:
    """A strategy of Flower.

    Attributes:
        parameters: Its own numbers; what every strategy has in common is not among them.
        need: Returns why so many nodes a round are too few, or an empty string.
        wraps: True for one that adds differential privacy to another.
        texts: Its parameters that are strings.
        shaped: False when updates do not have the shapes of the model.
        plain_mean: True when the next model is the mean of the updates and nothing else: only then noise on
            it hides what one node sent.
    """

    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    need: Callable[[Mapping[str, ParameterValue], int], str] = _no_need
    wraps: bool = False
    texts: frozenset[str] = frozenset()
    shaped: bool = True
    plain_mean: bool = False


_DP: Final = "DifferentialPrivacy"
KNOWN: Final[Mapping[str, Known]] = {
    "FedAvg": Known(plain_mean=True),
    "FedAvgM": Known({"server_learning_rate": _POSITIVE, "server_momentum": _SHARE}),
    "FedProx": Known({"proximal_mu": Parameter()}, plain_mean=True),
    "FedMedian": Known(need=_median),
    "FedTrimmedAvg": Known({"beta": Parameter(most=0.5, below=True)}, _trimmed),
    "Krum": Known({"num_malicious_nodes": _COUNT}, _krum),
    "MultiKrum": Known(
        {"num_malicious_nodes": _COUNT, "num_nodes_to_select": Parameter(1, whole=True)}, _krum
    ),
    "Bulyan": Known({"num_malicious_nodes": _COUNT}, _bulyan),
    "FedAdagrad": Known(_ETA),
    "FedAdam": Known({**_ETA, **_BETAS}),
    "FedYogi": Known({**_ETA, **_BETAS}),
    "QFedAvg": Known(
        {"client_learning_rate": Parameter(above=True, required=True), "q": Parameter()},
        texts=frozenset({"train_loss_key"}),
    ),
    "FedXgbBagging": Known(shaped=False),
    "FedXgbCyclic": Known(shaped=False),
    f"{_DP}ServerSideFixedClipping": Known(_FIXED, wraps=True),
    f"{_DP}ServerSideAdaptiveClipping": Known(_ADAPTIVE, _adaptive, wraps=True),
    f"{_DP}ClientSideFixedClipping": Known(_FIXED, wraps=True),
    f"{_DP}ClientSideAdaptiveClipping": Known(_ADAPTIVE, _adaptive, wraps=True),
}
"""Every strategy of flwr 1.41's Message API."""
DEFAULT: Final = "FedAvg"
_NO_SECAGG: Final = (
    "Flower has secure aggregation (SecAgg+) for its former API alone, and none for the Message API that "
    "every app and strategy here speaks; nor could a sum of hidden updates be sifted, clipped or bounded by "
    "a median. Against a curious server take privacy.local_noise, with which no update leaves its node bare"
)
BASE: Final = "base"


@dataclass(frozen=True, slots=True)
class Aggregation:
    """How updates become the next model.

    Attributes:
        strategy: A name of `KNOWN`, `module:Class`, or empty for the app's own choice.
        parameters: Its parameters by their names in Flower.
        fraction: Part of the online nodes that a round trains on, above 0 to 1; None for all.
        quorum: Usable results that a round needs; 0 for half of the nodes asked, rounded up.
        round_timeout: How long a round waits for results, in seconds; None for the app's own choice.
        max_update_ratio: See the field of the same name in `aegis.fl.v1.Aggregation`; 0 drops none.
        max_weight_ratio: Likewise.
    """

    strategy: str = ""
    parameters: Mapping[str, ParameterValue] = field(default_factory=dict)
    fraction: float | None = None
    quorum: int = 0
    round_timeout: float | None = None
    max_update_ratio: float = 10.0
    max_weight_ratio: float = 10.0

    @property
    def custom(self) -> bool:
        return ":" in self.strategy

    def round_nodes(self, nodes: int) -> int:
        """Return how many of *nodes* online nodes a round asks."""
        return nodes if self.fraction is None else max(1, int(nodes * self.fraction))


def checked(asked: Aggregation, *, nodes: int) -> Aggregation:
    """Return *asked*, or say what is wrong with it.

    Args:
        asked: What the creator of a run wants.
        nodes: Nodes that will at least be online in a round.

    Raises:
        InvalidRunConfig: Names every fault: an unknown strategy or parameter, a value out of range, or a
            strategy that cannot keep its promise with so few nodes.
    """
    faults: dict[str, str] = {}
    a_round = asked.round_nodes(nodes)
    if 0 < asked.max_update_ratio <= 1:
        faults["max_update_ratio"] = f"{asked.max_update_ratio:g} is out of range: 0, or above 1"
    if asked.quorum > a_round:
        faults["quorum"] = f"{asked.quorum} is more than the {a_round} nodes that a round asks"
    if asked.parameters and not asked.strategy:
        faults["parameters"] = "are those of a strategy: name it"
    elif asked.strategy and not asked.custom:
        faults |= _faults(asked.strategy, asked.parameters, a_round)
    elif asked.custom and not _CUSTOM.fullmatch(asked.strategy):
        faults["strategy"] = f"{asked.strategy!r} is not module:Class"
    if faults:
        text = "; ".join(f"{name}: {fault}" for name, fault in faults.items())
        violations = {f"{_FIELD}.{name}": fault for name, fault in faults.items()}
        raise InvalidRunConfig(f"aggregation: {text}", violations=violations)
    return asked


def _faults(name: str, values: Mapping[str, ParameterValue], nodes: int) -> dict[str, str]:
    known = KNOWN.get(name)
    if known is None and name.lower().startswith("secagg"):
        return {"strategy": f"{name} refused: {_NO_SECAGG}"}
    if known is None:
        return {"strategy": f"there is no strategy {name!r}; there are {', '.join(KNOWN)}, and module:Class"}
    faults: dict[str, str] = {}
    own, rest = split(name, values)
    for key, parameter in known.parameters.items():
        if key not in own:
            if parameter.required:
                faults[f"parameters.{key}"] = f"{name} needs it"
        elif fault := parameter.fault(own[key]):
            faults[f"parameters.{key}"] = fault
    if known.wraps:
        base = str(values.get(BASE, DEFAULT))
        if base in KNOWN and KNOWN[base].wraps:
            return faults | {f"parameters.{BASE}": f"{base} is itself one of differential privacy"}
        if base not in KNOWN or not KNOWN[base].plain_mean:
            means = ", ".join(name for name, one in KNOWN.items() if one.plain_mean)
            fault = f"no epsilon is known for noise on {base!r}, which is no plain mean; take one of {means}"
            return faults | {f"parameters.{BASE}": fault}
        faults |= _faults(base, rest, nodes)
    else:
        for key in rest:
            options = ", ".join([*known.parameters, *known.texts]) or "none"
            faults[f"parameters.{key}"] = f"{name} does not take it; its parameters: {options}"
    if not faults and (need := known.need(own, nodes)):
        faults["strategy"] = f"{name} refused for {nodes} nodes: {need}"
    return faults


def split(
    name: str, values: Mapping[str, ParameterValue]
) -> tuple[dict[str, ParameterValue], dict[str, ParameterValue]]:
    """Return the parameters of the strategy *name*, and those of the one it wraps."""
    known = KNOWN[name]
    mine = known.parameters.keys() | known.texts
    own = {key: value for key, value in values.items() if key in mine}
    return own, {key: value for key, value in values.items() if key not in mine and key != BASE}


def typed(name: str, values: Mapping[str, ParameterValue]) -> dict[str, ParameterValue]:
    """Return *values* as Flower wants them: JSON knows no integers."""
    parameters = KNOWN[name].parameters
    return {
        key: int(value) if key in parameters and parameters[key].whole else value
        for key, value in values.items()
    }
