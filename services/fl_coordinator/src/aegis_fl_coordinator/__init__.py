"""Federated training with Flower, gated by carbon, ending in a served model."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aegis_fl_coordinator.wrapper import FlowerServerWrapper

__all__ = ["FlowerServerWrapper"]


def __getattr__(name: str) -> object:
    # Late, so that Flower's processes and the supervisor start quickly.
    if name == "FlowerServerWrapper":
        from aegis_fl_coordinator.wrapper import FlowerServerWrapper  # noqa: PLC0415

        return FlowerServerWrapper
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
