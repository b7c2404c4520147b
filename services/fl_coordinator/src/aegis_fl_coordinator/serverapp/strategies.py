"""Makes the strategy of a run: one of Flower's by name, a class of the app's own, or the app's choice."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import Strategy

from aegis_fl_coordinator.domain.strategies import BASE, DEFAULT, KNOWN, Aggregation, split, typed


class UnusableStrategy(Exception):
    """The strategy cannot be made; the message says why."""


def make_strategy(
    asked: Aggregation, *, min_nodes: int, own: Callable[[int], Strategy] | None = None
) -> Strategy:
    """Return the strategy of a run; it evaluates on no node unless it is the app's own.

    Args:
        asked: What the run's creator wants; checked before.
        min_nodes: Nodes that are online in every round.
        own: Makes the app's own strategy for the least number of nodes.

    Raises:
        UnusableStrategy: A class cannot be imported or made.
    """
    if asked.custom:
        return _custom(asked, min_nodes)
    if asked.strategy:
        return _known(asked.strategy, asked, min_nodes, dict(asked.parameters))
    if own is None:
        return _known(DEFAULT, asked, min_nodes, {})
    return _with_fraction(own(min_nodes), asked)


def _known(name: str, asked: Aggregation, min_nodes: int, values: dict[str, Any]) -> Strategy:
    mine, rest = split(name, values)
    parameters = typed(name, mine)
    made: Callable[..., Strategy] = getattr(flower, name)
    if KNOWN[name].wraps:
        base = _known(str(values.get(BASE, DEFAULT)), asked, min_nodes, rest)
        return made(base, num_sampled_clients=asked.round_nodes(min_nodes), **parameters)
    return made(**parameters, **_common(name, asked, min_nodes))


def _common(name: str, asked: Aggregation, min_nodes: int) -> dict[str, Any]:
    if name == "FedXgbCyclic":
        # It picks one node a round, in turn, and takes no other fraction.
        return {"fraction_train": 1.0, "fraction_evaluate": 1.0, "min_available_nodes": min_nodes}
    return {
        "fraction_train": asked.fraction or 1.0,
        "fraction_evaluate": 0.0,
        "min_train_nodes": min_nodes if asked.fraction is None else 1,
        "min_evaluate_nodes": 0,
        "min_available_nodes": min_nodes,
    }


def _custom(asked: Aggregation, min_nodes: int) -> Strategy:
    module, _, name = asked.strategy.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UnusableStrategy(f"strategy {asked.strategy!r} cannot be imported: {error}") from error
    if not (inspect.isclass(found) and issubclass(found, Strategy)):
        raise UnusableStrategy(f"strategy {asked.strategy!r} is no flwr.serverapp.strategy.Strategy")
    accepted = inspect.signature(found).parameters
    takes_all = any(one.kind is one.VAR_KEYWORD for one in accepted.values())
    common = _common(name, asked, min_nodes)
    given = {key: value for key, value in common.items() if takes_all or key in accepted}
    try:
        made: Strategy = found(**(given | dict(asked.parameters)))
    except Exception as error:
        raise UnusableStrategy(f"strategy {asked.strategy!r} cannot be made: {error!r}") from error
    return made


def _with_fraction(strategy: Strategy, asked: Aggregation) -> Strategy:
    if asked.fraction is None:
        return strategy
    target = innermost(strategy)
    if not hasattr(target, "fraction_train"):
        raise UnusableStrategy(
            f"the app's {type(target).__name__} samples nodes its own way; name a strategy"
        )
    target.fraction_train, target.min_train_nodes = asked.fraction, 1  # type: ignore[attr-defined]
    return strategy


def evaluating(strategy: Strategy, asked: Aggregation) -> Strategy:
    """Return *strategy*, asking as many nodes to measure as it asks to train.

    One that samples nodes its own way asks whom it asks.

    Raises:
        UnusableStrategy: Its noise would not cover what they measure.
    """
    known = KNOWN.get(type(strategy).__name__)
    if known is not None and known.wraps:
        raise UnusableStrategy(
            f"{type(strategy).__name__} and an evaluation by the nodes: what they measure has no noise"
        )
    target = innermost(strategy)
    if hasattr(target, "fraction_evaluate"):
        target.fraction_evaluate, target.min_evaluate_nodes = asked.fraction or 1.0, 1  # type: ignore[attr-defined]
    return strategy


def innermost(strategy: Strategy) -> Strategy:
    """Return the strategy that does the averaging, below the ones that wrap it."""
    while isinstance(inner := getattr(strategy, "strategy", None), Strategy):
        strategy = inner
    return strategy
