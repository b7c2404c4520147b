"""Runs inside Flower's ClientApp process at a site: mods for an app's `ClientApp(mods=[...])`."""

from __future__ import annotations

from aegis_fl_coordinator.clientapp.local_noise import private_updates

__all__ = ["private_updates"]
