"""Which results of a round may go into the model: finite ones, of the model's shapes, and not far off."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Final

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord

from aegis_fl_coordinator.clientapp.local_noise import RECORD

_ENOUGH: Final = 3
"""Updates that it takes to say that one of them is far off."""
_SLACK: Final = 1.001
_MOD: Final = "aegis_fl_coordinator.clientapp.private_updates"


@dataclass(frozen=True, slots=True)
class Rules:
    """What a result must be.

    Attributes:
        weight_key: Metric with the number of examples.
        shaped: False when updates do not have the model's shapes, as trees.
        max_update_ratio: Longest update as a multiple of the median one; 0 for any.
        max_weight_ratio: Largest weight as a multiple of the median one.
        max_norm: L2 norm that each site had to clip its update to; None when sites do not clip.
        uniform: True when all weigh the same, as differential privacy needs.
        confirmation: What a node that adds noise to its update confirms; None when nodes add none.
    """

    weight_key: str
    shaped: bool = True
    max_update_ratio: float = 10.0
    max_weight_ratio: float = 10.0
    max_norm: float | None = None
    uniform: bool = False
    confirmation: Mapping[str, float] | None = None


@dataclass(slots=True)
class Sifted:
    """The results of a round.

    Attributes:
        usable: Those that may go into the model.
        dropped: The others, each with what is wrong with it.
        capped: Node ids of those among the usable whose weight was lowered.
    """

    usable: list[Message] = field(default_factory=list)
    dropped: list[tuple[Message, str]] = field(default_factory=list)
    capped: list[int] = field(default_factory=list)


def sift(replies: Sequence[Message], model: ArrayRecord, rules: Rules) -> Sifted:
    """Part results that can be used from those that cannot, and cap the weights of the former.

    Args:
        replies: Answers of a training round, none of them an error.
        model: What the nodes started from.
        rules: What a result must be.
    """
    sifted = Sifted()
    reference = {name: array.numpy() for name, array in model.items()}
    expected = _commonest([_metric_names(reply) for reply in replies])
    norms: list[float] = []
    for reply in replies:
        fault, norm = _fault(reply, reference, expected, rules)
        if fault:
            sifted.dropped.append((reply, f"dropped: {fault}"))
        else:
            sifted.usable.append(reply)
            norms.append(norm)
    if rules.shaped and rules.max_update_ratio:
        _drop_far(sifted, norms, rules.max_update_ratio)
    _cap_weights(sifted, rules)
    return sifted


def _fault(
    reply: Message, model: Mapping[str, np.ndarray], expected: frozenset[str], rules: Rules
) -> tuple[str, float]:
    """Return what is wrong with a result, or an empty string and the L2 norm of the update."""
    content = reply.content
    if rules.confirmation is not None and content.config_records.get(RECORD) != rules.confirmation:
        return f"the app at this node added no noise to its update: its ClientApp lacks the mod {_MOD}", 0.0
    if len(content.array_records) != 1 or len(content.metric_records) != 1:
        return "a result has exactly one ArrayRecord and one MetricRecord", 0.0
    if fault := _metric_fault(_metrics(reply), expected, rules.weight_key):
        return fault, 0.0
    arrays = next(iter(content.array_records.values()))
    if not rules.shaped:
        return "", 0.0
    if arrays.keys() != model.keys():
        missing, more = sorted(model.keys() - arrays.keys()), sorted(arrays.keys() - model.keys())
        return f"other arrays than the model's: missing {missing[:3]}, unknown {more[:3]}", 0.0
    square = 0.0
    for name, wanted in model.items():
        found = arrays[name].numpy()
        if (found.shape, found.dtype) != (wanted.shape, wanted.dtype):
            wants = f"{wanted.shape} {wanted.dtype}"
            return f"array {name} is {found.shape} {found.dtype}; the model's is {wants}", 0.0
        # float64: the difference of finite numbers must not overflow
        difference = found.astype(np.float64) - wanted
        square += float(np.vdot(difference, difference).real)
    # A NaN or an infinity anywhere shows in the sum; so does a number too large to be one of a model.
    if not math.isfinite(square):
        return "not all numbers of the update are finite", 0.0
    norm = math.sqrt(square)
    if rules.max_norm is not None and norm > rules.max_norm * _SLACK:
        return (
            f"the update's norm is {norm:.4g} and was to be clipped to {rules.max_norm:.4g}: the app at this "
            "node lacks the mod that clips",
            0.0,
        )
    return "", norm


def _metric_fault(metrics: MetricRecord, expected: frozenset[str], weight_key: str) -> str:
    if weight_key not in metrics:
        return f"no metric {weight_key!r}"
    weight = metrics[weight_key]
    if isinstance(weight, list) or not math.isfinite(weight) or weight <= 0:
        return f"metric {weight_key!r} is {weight}; it must be a number above 0"
    if metrics.keys() != expected:
        return f"other metrics than most nodes': {sorted(metrics.keys() ^ expected)[:3]}"
    for name, value in metrics.items():
        if not all(math.isfinite(one) for one in (value if isinstance(value, list) else [value])):
            return f"metric {name!r} is {value}"
    return ""


def _drop_far(sifted: Sifted, norms: list[float], ratio: float) -> None:
    if len(norms) < _ENOUGH:
        return
    limit = ratio * median(norms)
    near: list[Message] = []
    for reply, norm in zip(sifted.usable, norms, strict=True):
        if norm <= limit:
            near.append(reply)
            continue
        fault = f"the update's norm is {norm:.4g}; {ratio:g} times the median of the round is {limit:.4g}"
        sifted.dropped.append((reply, f"dropped: {fault}"))
    sifted.usable = near


def _cap_weights(sifted: Sifted, rules: Rules) -> None:
    if not sifted.usable:
        return
    records = [_metrics(reply) for reply in sifted.usable]
    weights = [float(record[rules.weight_key]) for record in records]  # type: ignore[arg-type]  # no list: checked
    limit = 1.0 if rules.uniform else rules.max_weight_ratio * median(weights)
    for reply, record, weight in zip(sifted.usable, records, weights, strict=True):
        if rules.uniform:
            record[rules.weight_key] = limit
        elif weight > limit:
            record[rules.weight_key] = limit
            sifted.capped.append(reply.metadata.src_node_id)


def _metrics(reply: Message) -> MetricRecord:
    return next(iter(reply.content.metric_records.values()))


def _metric_names(reply: Message) -> frozenset[str]:
    records = reply.content.metric_records
    return frozenset(next(iter(records.values())).keys()) if len(records) == 1 else frozenset()


def _commonest(names: Sequence[frozenset[str]]) -> frozenset[str]:
    return Counter(names).most_common(1)[0][0] if names else frozenset()
