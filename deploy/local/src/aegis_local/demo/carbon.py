"""The carbon decision, with its source and age."""

from __future__ import annotations

from aegis_local.demo.doors import machines
from aegis_local.demo.report import Report
from aegis_local.runner import Stack


async def ask_carbon(stack: Stack, report: Report) -> None:
    """Ask whether work should start now."""
    report.heading("Should work start now?")
    async with machines(stack) as sdk:
        decision = await sdk.carbon.check()
    found = decision.intensity
    if found is None or found.age is None:
        report.check("intensity", False, expected="a value", found=decision.reason)
        return
    report.line(
        f"zone {found.zone}: {found.g_per_kwh:g} gCO2e/kWh, {found.quality.lower()}, {found.signal.lower()}"
    )
    report.line(f"source {found.source}, {found.age.total_seconds():.3f} s old")
    below = found.g_per_kwh <= decision.threshold_g_per_kwh
    expected = "RUN_NOW" if below else "WAIT"
    report.check(
        f"decision at a threshold of {decision.threshold_g_per_kwh:g}",
        decision.decision == expected,
        expected=expected,
        found=f"{decision.decision}, {decision.reason}",
    )
