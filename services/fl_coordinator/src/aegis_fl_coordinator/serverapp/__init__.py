"""Runs inside Flower's ServerApp process: the gate, the checkpoints and the reports around any strategy."""

from __future__ import annotations

from aegis_fl_coordinator.serverapp.entry import AppSpec, ExportedArrays, run_coordinated

__all__ = ["AppSpec", "ExportedArrays", "run_coordinated"]
