"""What an app that was approved and is malicious can do from its ServerApp process, and what it cannot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aegis_fl_coordinator.adapters.flower_control import build_bundle
from aegis_fl_coordinator.runfile import RUN_KEY
from aegis_fl_coordinator.testing.calls import create, register, submitted
from aegis_fl_coordinator.testing.engine import ScriptedEngine
from aegis_fl_coordinator.testing.processes import Coordinate, StartSuperLink, until

BURGLAR = Path(__file__).parent / "apps" / "burglar"
HOLDS = {
    "another run, with my token",
    "another run, with its token",
    "the coordinator's runs",
    "SuperLink's key",
    "a secret in the environment",
}
DOES_NOT_HOLD = {
    "RegisterNode",
    "StartRun",
    "AcquireTask",
}
"""On one machine, as one user; docs/security.md says what closes it. A Flower that closes it fails here."""


@pytest.mark.long
async def test_what_a_malicious_app_can_do_is_what_the_threat_model_says(
    coordinate: Coordinate, superlink: StartSuperLink, tmp_path: Path
) -> None:
    link, engine = await superlink(), ScriptedEngine()
    runs = tmp_path / "volume" / "runs"
    async with coordinate(engine) as coordinator:
        await register(coordinator, tmp_path)
        engine.online.add(101)
        sdk = await coordinator.as_account("sdk")
        names = [(await create(sdk)).name.removeprefix("trainingRuns/") for _ in range(2)]
        await until(submitted(engine, 2))
        loot_file = runs / names[0] / "loot.json"
        await link.control.start_run(build_bundle(BURGLAR), {RUN_KEY: names[0], "other": names[1]})

        async def written() -> bool:
            return loot_file.exists()

        await until(written)
    loot = json.loads(loot_file.read_text())

    assert {name for name, found in loot.items() if found.startswith("refused")} == HOLDS, loot
    assert {name for name, found in loot.items() if found.startswith("got in")} == DOES_NOT_HOLD, loot
    assert "PERMISSION_DENIED: the token is not the one of" in loot["another run, with my token"]
