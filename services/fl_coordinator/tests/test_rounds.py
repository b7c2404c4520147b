"""RoundService over mTLS: the token reaches one run alone, and the gate holds the rounds."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import grpc
import grpc.aio
import pytest

from aegis.fl.v1 import round_service_pb2 as round_pb
from aegis.fl.v1 import training_service_pb2 as pb
from aegis_common.testing.pki import Mesh
from aegis_fl_coordinator.domain.errors import EngineUnavailable, UnknownZone
from aegis_fl_coordinator.domain.ports import EngineState, EngineStatus
from aegis_fl_coordinator.runfile import DESCRIPTION_FILE, MODEL_FILE, RunFile
from aegis_fl_coordinator.serverapp.link import CoordinatorLink, RunStopped
from aegis_fl_coordinator.testing.calls import (
    ask,
    create,
    folder_of,
    get,
    reason,
    register,
    start,
    token,
    until_state,
)
from aegis_fl_coordinator.testing.engine import ScriptedEngine
from aegis_fl_coordinator.testing.peers import Agent, Carbon, clean_grid, dirty_grid
from aegis_fl_coordinator.testing.processes import Coordinate, Coordinator, until

Run = pb.TrainingRun


async def test_a_round_is_let_in_when_the_grid_is_clean(
    coordinate: Coordinate, tmp_path: Path, carbon: Carbon, mesh: Mesh
) -> None:
    engine = ScriptedEngine()
    async with coordinate(engine) as coordinator:
        run = await start(coordinator, tmp_path, engine)
        app = await coordinator.as_account("fl-serverapp")
        first = await app.rounds.AwaitRound(ask(run), metadata=token(run, tmp_path))
        again = await app.rounds.AwaitRound(ask(run), metadata=token(run, tmp_path))
        standing = await get(await coordinator.as_account("sdk"), run.name)

    assert (first.proceed, again.proceed) == (True, True)
    assert (standing.state, standing.state_message) == (Run.STATE_RUNNING, "round 1 of 2")
    ((_, call),) = carbon.calls
    assert (call.principal.subject, call.principal.on_behalf_of) == ("sdk", True)
    assert (call.peer_spiffe_id, call.trace_id) == (mesh.spiffe_id("fl-coordinator"), run.trace_id)


async def test_a_token_reaches_its_own_run_alone(coordinate: Coordinate, tmp_path: Path) -> None:
    engine = ScriptedEngine()
    async with coordinate(engine) as coordinator:
        mine = await start(coordinator, tmp_path, engine)
        other = await start(coordinator, tmp_path, engine)
        app = await coordinator.as_account("fl-serverapp")
        twice = (*token(mine, tmp_path), *token(mine, tmp_path))
        for metadata in (token(other, tmp_path), (), (("aegis-run-token", ""),), twice):
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await app.rounds.AwaitRound(ask(mine), metadata=metadata)
            assert reason(error.value) == ("PERMISSION_DENIED", "INVALID_RUN_TOKEN")
            with pytest.raises(grpc.aio.AioRpcError) as error:
                request = round_pb.ReportRoundRequest(training_run=mine.name, round=pb.Round(number=1))
                await app.rounds.ReportRound(request, metadata=metadata)
            assert reason(error.value) == ("PERMISSION_DENIED", "INVALID_RUN_TOKEN")


async def test_an_unknown_run_is_not_found(coordinate: Coordinate) -> None:
    async with coordinate(ScriptedEngine()) as coordinator:
        app = await coordinator.as_account("fl-serverapp")
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await app.rounds.AwaitRound(ask(Run(name="trainingRuns/none")))

    assert reason(error.value) == ("NOT_FOUND", "UNKNOWN_TRAINING_RUN")


@pytest.mark.parametrize("account", ["admin", "gateway", "agent", "fl-node-site-1"])
async def test_nobody_but_a_training_app_may_ask(
    coordinate: Coordinate, tmp_path: Path, account: str
) -> None:
    engine = ScriptedEngine()
    async with coordinate(engine) as coordinator:
        run = await start(coordinator, tmp_path, engine)
        stranger = await coordinator.as_account(account)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await stranger.rounds.AwaitRound(ask(run), metadata=token(run, tmp_path))

    assert error.value.code() in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED)


async def test_a_training_app_may_do_nothing_else(coordinate: Coordinate) -> None:
    async with coordinate(ScriptedEngine()) as coordinator:
        app = await coordinator.as_account("fl-serverapp")
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await create(app)

    assert error.value.code() in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED)


async def test_a_dirty_grid_holds_the_round_until_it_is_clean(
    coordinate: Coordinate, tmp_path: Path, carbon: Carbon
) -> None:
    engine = ScriptedEngine()
    carbon.answer = dirty_grid(retry_after_s=30)
    async with coordinate(engine) as coordinator:
        run = await start(coordinator, tmp_path, engine)
        app = await coordinator.as_account("fl-serverapp")
        held = await app.rounds.AwaitRound(ask(run), metadata=token(run, tmp_path))
        standing = await get(await coordinator.as_account("sdk"), run.name)
        carbon.answer = clean_grid()
        open_ = await app.rounds.AwaitRound(ask(run), metadata=token(run, tmp_path))
        report = round_pb.ReportRoundRequest(training_run=run.name, round=pb.Round(number=1))
        await app.rounds.ReportRound(report, metadata=token(run, tmp_path))
        done = await get(await coordinator.as_account("sdk"), run.name)

    assert (held.proceed, held.retry_after.ToTimedelta().total_seconds()) == (False, 30)
    assert standing.state == Run.STATE_WAITING_FOR_GRID
    assert standing.state_message.startswith("the grid is at 400 gCO2e/kWh, the threshold is 150; ")
    assert open_.proceed
    gate = done.round_reports[0].gate
    assert (gate.clean, gate.reason) == (True, "BELOW_THRESHOLD")
    assert gate.waited.ToTimedelta().total_seconds() > 0


async def test_a_round_starts_anyway_when_it_has_waited_long_enough(
    coordinate: Coordinate, tmp_path: Path, carbon: Carbon
) -> None:
    engine = ScriptedEngine()
    carbon.answer = dirty_grid(retry_after_s=0.1)
    policy = pb.CarbonPolicy(zone="zones/GB", max_intensity_g_per_kwh=120.0)
    policy.max_wait.FromMilliseconds(300)
    async with coordinate(engine) as coordinator:
        run = await start(coordinator, tmp_path, engine, carbon_policy=policy)
        app = await coordinator.as_account("fl-serverapp")
        answer = await app.rounds.AwaitRound(ask(run), metadata=token(run, tmp_path))
        report = round_pb.ReportRoundRequest(training_run=run.name, round=pb.Round(number=1))
        await app.rounds.ReportRound(report, metadata=token(run, tmp_path))
        done = await get(await coordinator.as_account("sdk"), run.name)

    assert answer.proceed
    gate = done.round_reports[0].gate
    assert (gate.clean, gate.reason, gate.intensity_g_per_kwh) == (False, "MAX_WAIT", 400.0)
    assert gate.waited.ToTimedelta().total_seconds() >= 0.3
    assert carbon.calls[0][0].zone == "zones/GB"
    assert carbon.calls[0][0].max_intensity_g_per_kwh == 120.0


async def test_a_dead_carbon_service_holds_nothing_up(
    coordinate: Coordinate, tmp_path: Path, carbon: Carbon
) -> None:
    engine = ScriptedEngine()
    carbon.answer = None
    async with coordinate(engine) as coordinator:
        run = await start(coordinator, tmp_path, engine)
        app = await coordinator.as_account("fl-serverapp")
        await app.rounds.AwaitRound(ask(run), metadata=token(run, tmp_path))
        report = round_pb.ReportRoundRequest(training_run=run.name, round=pb.Round(number=1))
        await app.rounds.ReportRound(report, metadata=token(run, tmp_path))
        done = await get(await coordinator.as_account("sdk"), run.name)

    gate = done.round_reports[0].gate
    assert (gate.clean, gate.reason) == (False, "CARBON_UNAVAILABLE")
    assert not gate.HasField("intensity_g_per_kwh")
    assert not gate.HasField("threshold_g_per_kwh")


async def test_an_unknown_zone_makes_no_run_and_one_that_goes_away_fails_it(
    coordinate: Coordinate, tmp_path: Path, carbon: Carbon
) -> None:
    engine = ScriptedEngine()
    unknown, policy = UnknownZone("zone zones/XX is unknown"), pb.CarbonPolicy(zone="zones/XX")
    async with coordinate(engine) as coordinator:
        carbon.answer, carbon.failure = None, unknown
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await create(await coordinator.as_account("sdk"), carbon_policy=policy)
        carbon.failure = RuntimeError("no carbon")
        run = await start(coordinator, tmp_path, engine, carbon_policy=policy)
        carbon.failure = unknown
        app = await coordinator.as_account("fl-serverapp")
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await app.rounds.AwaitRound(ask(run), metadata=token(run, tmp_path))
        ended = await until_state(await coordinator.as_account("sdk"), run.name, Run.STATE_FAILED)

    assert reason(refused.value) == ("NOT_FOUND", "UNKNOWN_ZONE")
    assert reason(error.value) == ("FAILED_PRECONDITION", "RUN_ENDED")
    assert ended.state_message == "zone zones/XX is unknown"


async def test_a_round_waits_for_nodes(coordinate: Coordinate, tmp_path: Path, carbon: Carbon) -> None:
    engine = ScriptedEngine()
    async with coordinate(engine) as coordinator:
        run = await start(coordinator, tmp_path, engine)
        app = await coordinator.as_account("fl-serverapp")
        answer = await app.rounds.AwaitRound(ask(run, nodes=0), metadata=token(run, tmp_path))
        standing = await get(await coordinator.as_account("sdk"), run.name)

    assert not answer.proceed
    assert (standing.state, standing.state_message) == (
        Run.STATE_WAITING_FOR_NODES,
        "0 of 1 nodes are online",
    )
    assert carbon.calls == []


async def test_a_report_counts_once_and_no_round_beyond_the_last_counts(
    coordinate: Coordinate, tmp_path: Path
) -> None:
    engine = ScriptedEngine()
    async with coordinate(engine) as coordinator:
        run = await start(coordinator, tmp_path, engine)
        app = await coordinator.as_account("fl-serverapp")
        report = pb.Round(number=1, metrics={"accuracy": 0.5}, node_results=1, checkpoint_sha256="a" * 64)
        for _ in range(2):
            request = round_pb.ReportRoundRequest(training_run=run.name, round=report)
            await app.rounds.ReportRound(request, metadata=token(run, tmp_path))
        with pytest.raises(grpc.aio.AioRpcError) as error:
            beyond = round_pb.ReportRoundRequest(training_run=run.name, round=pb.Round(number=3))
            await app.rounds.ReportRound(beyond, metadata=token(run, tmp_path))
        done = await get(await coordinator.as_account("sdk"), run.name)

    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert done.completed_rounds == 1
    assert dict(done.round_reports[0].metrics) == {"accuracy": 0.5}


async def test_a_run_whose_privacy_budget_is_spent_ends_and_says_so(
    coordinate: Coordinate, tmp_path: Path
) -> None:
    engine = ScriptedEngine()
    noise = pb.LocalNoise(clipping_norm=1, noise_multiplier=1)
    async with coordinate(engine) as coordinator:
        privacy = pb.Privacy(epsilon_budget=10, local_noise=noise)
        run = await start(coordinator, tmp_path, engine, rounds=4, privacy=privacy)
        app = await coordinator.as_account("fl-serverapp")
        await app.rounds.AwaitRound(ask(run), metadata=token(run, tmp_path))
        # Four releases after one round: the round was cut off three times and its nodes asked anew.
        report = pb.Round(number=1, epsilon=8.4, delta=1e-5, noisy_releases=4)
        request = round_pb.ReportRoundRequest(training_run=run.name, round=report)
        await app.rounds.ReportRound(request, metadata=token(run, tmp_path))
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await app.rounds.AwaitRound(ask(run, 2), metadata=token(run, tmp_path))
        ended = await until_state(await coordinator.as_account("sdk"), run.name, Run.STATE_FAILED)

    assert reason(error.value) == ("FAILED_PRECONDITION", "RUN_ENDED")
    assert ended.state_message == (
        "the privacy budget is spent: epsilon 9.997 of 10 (delta 1e-05) after 4 releases with noise; "
        "another one would exceed it"
    )
    assert ended.privacy.local_noise == noise
    assert ended.round_reports[0].noisy_releases == 4


async def test_a_run_that_is_stopped_starts_no_round(coordinate: Coordinate, tmp_path: Path) -> None:
    engine = ScriptedEngine()
    async with coordinate(engine) as coordinator:
        run = await start(coordinator, tmp_path, engine)
        metadata = token(run, tmp_path)
        sdk = await coordinator.as_account("sdk")
        await sdk.training.CancelTrainingRun(pb.CancelTrainingRunRequest(name=run.name))
        app = await coordinator.as_account("fl-serverapp")
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await app.rounds.AwaitRound(ask(run), metadata=metadata)

    assert reason(error.value) == ("FAILED_PRECONDITION", "RUN_ENDED")


async def finish(coordinator: Coordinator, run: Run, engine: ScriptedEngine, tmp_path: Path) -> None:
    """Do what a training app does: two rounds, then its model."""
    link = CoordinatorLink(folder_of(run, tmp_path))
    for number in (1, 2):
        await asyncio.to_thread(link.await_round, number, lambda: 1)
        await asyncio.to_thread(link.report_round, pb.Round(number=number, metrics={"accuracy": 0.9}))
    (folder_of(run, tmp_path) / DESCRIPTION_FILE).write_text('{"task": "classification"}')
    (folder_of(run, tmp_path) / MODEL_FILE).write_bytes(b"onnx")
    engine.states[1] = EngineStatus(EngineState.COMPLETED)


async def test_the_model_of_a_finished_run_is_published_once_though_the_agent_fails_first(
    coordinate: Coordinate, tmp_path: Path, agent: Agent
) -> None:
    engine = ScriptedEngine()
    agent.failure = EngineUnavailable("the agent is not up yet")
    async with coordinate(engine) as coordinator:
        run = await start(coordinator, tmp_path, engine, model="models/digits")
        await finish(coordinator, run, engine, tmp_path)
        ended = await until_state(await coordinator.as_account("sdk"), run.name, Run.STATE_SUCCEEDED)

    version = run.name.removeprefix("trainingRuns/")
    assert ended.model_version == f"models/digits/versions/{version}"
    ((request, call),) = agent.published
    assert (request.parent, request.version, list(request.aliases)) == (
        "models/digits",
        version,
        ["production"],
    )
    assert (call.principal.subject, call.trace_id) == ("sdk", run.trace_id)


async def test_an_agent_that_refuses_the_model_fails_the_run(
    coordinate: Coordinate, tmp_path: Path, agent: Agent
) -> None:
    engine = ScriptedEngine()
    agent.failure = UnknownZone("it cannot be loaded")
    async with coordinate(engine) as coordinator:
        run = await start(coordinator, tmp_path, engine, model="models/digits")
        await finish(coordinator, run, engine, tmp_path)
        ended = await until_state(await coordinator.as_account("sdk"), run.name, Run.STATE_FAILED)

    assert ended.state_message == "it cannot be loaded"


async def test_a_run_without_a_model_publishes_nothing(
    coordinate: Coordinate, tmp_path: Path, agent: Agent
) -> None:
    engine = ScriptedEngine()
    async with coordinate(engine) as coordinator:
        run = await start(coordinator, tmp_path, engine)
        await finish(coordinator, run, engine, tmp_path)
        ended = await until_state(await coordinator.as_account("sdk"), run.name, Run.STATE_SUCCEEDED)

    assert (ended.model_version, agent.published) == ("", [])


async def test_a_training_app_outlasts_a_restart_of_the_coordinator_on_another_port(
    coordinate: Coordinate, tmp_path: Path
) -> None:
    engine = ScriptedEngine()
    async with coordinate(engine) as coordinator:
        run = await start(coordinator, tmp_path, engine)
    link = CoordinatorLink(folder_of(run, tmp_path), sleep=lambda _: time.sleep(0.05))
    waiting = asyncio.create_task(asyncio.to_thread(link.await_round, 1, lambda: 1))
    await asyncio.sleep(0.3)
    async with coordinate(engine) as coordinator:
        await asyncio.wait_for(waiting, 60)
        standing = await get(await coordinator.as_account("sdk"), run.name)

    assert standing.state_message == "round 1 of 2"


async def test_a_training_app_ends_when_its_run_was_stopped(coordinate: Coordinate, tmp_path: Path) -> None:
    engine = ScriptedEngine()
    async with coordinate(engine) as coordinator:
        run = await start(coordinator, tmp_path, engine)
        link = CoordinatorLink(folder_of(run, tmp_path))
        sdk = await coordinator.as_account("sdk")
        await sdk.training.CancelTrainingRun(pb.CancelTrainingRunRequest(name=run.name))
        with pytest.raises((RunStopped, FileNotFoundError)):
            await asyncio.to_thread(link.await_round, 1, lambda: 1)


async def test_the_run_file_holds_no_secret_and_names_the_tenants_nodes(
    coordinate: Coordinate, tmp_path: Path
) -> None:
    engine = ScriptedEngine()
    async with coordinate(engine) as coordinator:
        run = await start(coordinator, tmp_path, engine)
        folder = folder_of(run, tmp_path)
        file = RunFile.read(folder)
        await register(coordinator, tmp_path, "site-2")

        async def has_both() -> bool:
            return set(RunFile.read(folder).nodes.values()) == {"nodes/site-1", "nodes/site-2"}

        await until(has_both)
        secret = (folder / "token").read_text()

    assert file.nodes == {101: "nodes/site-1"}
    assert secret not in (folder / "run.json").read_text()
    assert "aegis-run-token" not in str(engine.runs)
    assert secret not in str(engine.runs)
    assert folder.stat().st_mode & 0o077 == 0
