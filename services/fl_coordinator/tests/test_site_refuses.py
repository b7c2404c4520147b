"""A real SuperNode with a policy: what it refuses comes back with its reason, what it allows is counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aegis.fl.v1 import training_service_pb2 as pb
from aegis_common.testing.pki import Mesh
from aegis_fl_coordinator.adapters.apps import FolderCatalogue
from aegis_fl_coordinator.testing.calls import create, register, until_state
from aegis_fl_coordinator.testing.processes import Coordinate, Processes, StartSuperLink
from aegis_fl_coordinator.testing.sites import start_edge, start_site

STEPS = Path(__file__).parent / "apps" / "steps"


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_a_site_trains_what_its_policy_allows_and_says_why_not(
    mesh: Mesh, coordinate: Coordinate, superlink: StartSuperLink, processes: Processes, tmp_path: Path
) -> None:
    digest = FolderCatalogue([STEPS]).get("steps").sha256
    policy = tmp_path / "site-policy.yaml"
    policy.write_text(f"schema_version: 1\napps: ['{'0' * 64}']\n")
    link = await superlink()
    edge = start_edge(processes, mesh, tmp_path, link.port, 1)
    settings = {"app_dirs": (STEPS,), "approved_apps": (digest,), "superlink": f"127.0.0.1:{link.port}"}
    asked: dict[str, Any] = {"app": "steps", "min_nodes": 1, "rounds": 2}
    noise = pb.Privacy(local_noise=pb.LocalNoise(clipping_norm=1, noise_multiplier=0.5))

    async with coordinate(**settings) as coordinator:
        await register(coordinator, tmp_path)
        start_site(processes, mesh, tmp_path, edge, 1, 1, policy=policy)
        sdk = await coordinator.as_account("sdk")
        unknown = await create(sdk, **asked)
        refused = await until_state(sdk, unknown.name, pb.TrainingRun.STATE_FAILED)
        policy.write_text(
            f"schema_version: 1\napps: ['{digest}']\nmax_rounds: 1\nprivacy: {{min_noise_multiplier: 0.5}}\n"
        )
        run = await create(sdk, **asked, privacy=noise)
        ended = await until_state(sdk, run.name, pb.TrainingRun.STATE_FAILED)

    assert f"the digest {digest} of the app is not among the site's apps" in refused.state_message
    assert ended.completed_rounds == 1
    # The app knows of no noise: the site added it.
    assert ended.round_reports[0].noisy_releases == 1
    assert "the run has had its 1 rounds here (max_rounds)" in ended.state_message
    spent = json.loads((tmp_path / "home-1" / "site-spent.json").read_text())
    assert spent["rounds"] == {run.name.removeprefix("trainingRuns/"): 1}
    assert spent["inverse_squares"] == pytest.approx(4.0)
