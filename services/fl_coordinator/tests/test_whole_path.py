"""The whole path with real processes: three sites behind Envoys train digits, and the model is published."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from aegis.fl.v1 import training_service_pb2 as pb
from aegis_common.signing import Signer, TrustedKeys
from aegis_common.store.models import ModelStore
from aegis_common.store.objects import ObjectStore
from aegis_common.testing.pki import Mesh
from aegis_fl_coordinator.testing.calls import create, register
from aegis_fl_coordinator.testing.peers import Agent, Carbon
from aegis_fl_coordinator.testing.processes import Coordinate, Processes, StartSuperLink
from aegis_fl_coordinator.testing.sites import start_edge, start_site

NODES = 3
ROUNDS = 3


@pytest.mark.long
@pytest.mark.training
@pytest.mark.timeout(300)
async def test_three_sites_train_through_a_restart_and_the_model_is_signed_and_published(
    mesh: Mesh,
    coordinate: Coordinate,
    superlink: StartSuperLink,
    processes: Processes,
    carbon: Carbon,
    agent: Agent,
    tmp_path: Path,
) -> None:
    pytest.importorskip("torch")
    link = await superlink()
    edge = start_edge(processes, mesh, tmp_path, link.port, NODES)
    address = f"127.0.0.1:{link.port}"

    async with coordinate(superlink=address) as coordinator:
        for number in range(1, NODES + 1):
            await register(coordinator, tmp_path, f"site-{number}")
            start_site(processes, mesh, tmp_path, edge, number, NODES)
        sdk = await coordinator.as_account("sdk")
        run = await create(sdk, rounds=ROUNDS, min_nodes=NODES, model="models/digits")
        events = []
        async for event in sdk.training.WatchTrainingRun(pb.WatchTrainingRunRequest(name=run.name)):
            events.append(event)
            if event.WhichOneof("event") == "round":
                break
    # The run goes on under SuperLink; the next coordinator, on another port, takes it over.
    async with coordinate(superlink=address) as coordinator:
        sdk = await coordinator.as_account("sdk")
        again = pb.WatchTrainingRunRequest(name=run.name, resume_token=events[-1].resume_token)
        events += [event async for event in sdk.training.WatchTrainingRun(again)]

    reported = [event.round.number for event in events if event.WhichOneof("event") == "round"]
    assert reported == list(range(1, ROUNDS + 1))
    end = events[-1].end
    assert (end.state, end.state_message) == (
        pb.TrainingRun.STATE_SUCCEEDED,
        f"{end.model_version} is served",
    )
    accuracies = [report.metrics["accuracy"] for report in end.round_reports]
    assert len(accuracies) == ROUNDS
    assert accuracies[-1] > 0.85
    assert [report.gate.reason for report in end.round_reports] == ["BELOW_THRESHOLD"] * ROUNDS
    assert [report.node_results for report in end.round_reports] == [NODES] * ROUNDS
    ((request, call),) = agent.published
    assert list(request.aliases) == ["production"]
    assert call.principal.subject == "sdk"
    assert {call.trace_id for _, call in carbon.calls} == {end.trace_id}
    trusted = TrustedKeys([Signer.load(tmp_path / "signing.key").public_key])
    store = ModelStore(ObjectStore.open((tmp_path / "models").as_uri()), None, trusted)
    manifest = await store.manifest("default", "digits", request.version)
    model = await store.fetch(manifest)
    assert hashlib.sha256(model).hexdigest() == request.sha256
    assert manifest.provenance["model"]["metrics"]["accuracy"] == accuracies[-1]
