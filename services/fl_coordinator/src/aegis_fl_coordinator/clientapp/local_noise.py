"""Local differential privacy: a node's update is clipped and gets noise before it leaves the node."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp.typing import ClientAppCallable

RECORD: Final = "aegis-local-noise"
"""Config record that asks a node for noise, and with which the node confirms that it added it."""
CLIPPING_NORM: Final = "clipping-norm"
NOISE_MULTIPLIER: Final = "noise-multiplier"
WEIGHT_KEY: Final = "weight-key"
_UNUSABLE: Final = 71
"""Code of the error that stands for an update which no noise can be added to; Flower's own are below."""


def private_updates(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Clip the app's update and add noise to it, when the run asks for that; else leave it alone.

    What then leaves the node is the update with noise and nothing else: no metrics, the same weight for all,
    and arrays of integers as they came. The noise is drawn anew from the system's entropy, whatever the app
    seeds.
    """
    asked = message.content.config_records.get(RECORD)
    if asked is None:
        return call_next(message, context)
    start = _only_arrays(message)
    # The app may change what it was given.
    before = {name: np.array(array.numpy()) for name, array in start.items()}
    reply = call_next(message, context)
    if reply.has_error():
        return reply
    try:
        arrays = _noised(
            before, _only_arrays(reply), _number(asked, CLIPPING_NORM), _number(asked, NOISE_MULTIPLIER)
        )
    except ValueError as error:
        return Message(Error(code=_UNUSABLE, reason=f"no noise can be added: {error}"), reply_to=message)
    content = RecordDict(
        {
            next(iter(reply.content.array_records)): arrays,
            "metrics": MetricRecord({str(asked[WEIGHT_KEY]): 1.0}),
            RECORD: ConfigRecord({key: asked[key] for key in (CLIPPING_NORM, NOISE_MULTIPLIER)}),
        }
    )
    return Message(content=content, reply_to=message)


def _noised(
    before: dict[str, np.ndarray], found: ArrayRecord, clipping_norm: float, noise_multiplier: float
) -> ArrayRecord:
    after = {name: array.numpy() for name, array in found.items()}
    if after.keys() != before.keys() or any(
        after[name].shape != array.shape for name, array in before.items()
    ):
        raise ValueError("the update does not have the model's arrays")
    updates = {
        name: after[name].astype(np.float64) - array
        for name, array in before.items()
        if np.issubdtype(array.dtype, np.floating)
    }
    norm = math.sqrt(sum(float(np.vdot(update, update)) for update in updates.values()))
    if not math.isfinite(norm):
        raise ValueError("not all numbers of the update are finite")
    scale = min(1.0, clipping_norm / norm) if norm else 1.0
    # Two updates of this norm lie at most twice as far apart.
    deviation = noise_multiplier * 2 * clipping_norm
    generator = np.random.default_rng()
    sent = dict(before)
    for name, update in updates.items():
        noisy = before[name] + update * scale + generator.normal(0.0, deviation, update.shape)
        sent[name] = noisy.astype(before[name].dtype)
    return ArrayRecord({name: Array(array) for name, array in sent.items()})


def _only_arrays(message: Message) -> ArrayRecord:
    (arrays,) = message.content.array_records.values()
    return arrays


def _number(record: ConfigRecord, key: str) -> float:
    value = record[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"{key} is {value!r}, not a number above 0")
    return float(value)
