"""A run that is paused and resumed: what it says of itself, and that no round is lost or counts twice."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import grpc.aio
import pytest

from aegis.fl.v1 import training_service_pb2 as pb
from aegis_fl_coordinator.domain.errors import EngineUnavailable
from aegis_fl_coordinator.domain.ports import EngineState, EngineStatus
from aegis_fl_coordinator.testing.calls import (
    ask,
    create,
    get,
    reason,
    start,
    submitted,
    token,
    told,
    until_state,
)
from aegis_fl_coordinator.testing.engine import ScriptedEngine
from aegis_fl_coordinator.testing.peers import Carbon
from aegis_fl_coordinator.testing.processes import Coordinate, Stubs, until

Run = pb.TrainingRun


async def pause(stubs: Stubs, name: str, *, immediate: bool = False) -> Run:
    request = pb.PauseTrainingRunRequest(name=name, immediate=immediate)
    return (await stubs.training.PauseTrainingRun(request)).training_run


async def resume(stubs: Stubs, name: str) -> Run:
    request = pb.ResumeTrainingRunRequest(name=name)
    return (await stubs.training.ResumeTrainingRun(request)).training_run


async def says(stubs: Stubs, name: str, message: str) -> bool:
    return (await get(stubs, name)).state_message == message


async def test_the_round_under_way_is_finished_and_the_run_goes_on_after_it_whoever_is_restarted(
    coordinate: Coordinate, tmp_path: Path, carbon: Carbon
) -> None:
    engine = ScriptedEngine()
    async with coordinate(engine) as coordinator:
        run = await start(coordinator, tmp_path, engine)
        sdk, app = await coordinator.as_account("sdk"), await coordinator.as_account("fl-serverapp")
        await app.rounds.AwaitRound(ask(run), metadata=token(run, tmp_path))
        pausing = await pause(sdk, run.name)
    async with coordinate(engine) as coordinator:
        sdk, app = await coordinator.as_account("sdk"), await coordinator.as_account("fl-serverapp")
        metadata = token(run, tmp_path)
        again = await app.rounds.AwaitRound(ask(run), metadata=metadata)
        await app.rounds.ReportRound(told(run), metadata=metadata)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await app.rounds.AwaitRound(ask(run, 2), metadata=metadata)
        paused = await until_state(sdk, run.name, Run.STATE_PAUSED)
    async with coordinate(engine) as coordinator:
        sdk, app = await coordinator.as_account("sdk"), await coordinator.as_account("fl-serverapp")
        still = await get(sdk, run.name)
        before = dict(engine.states)
        resumed = await resume(sdk, run.name)
        await until(submitted(engine, 2))
        second = await app.rounds.AwaitRound(ask(run, 2), metadata=token(run, tmp_path))
        await app.rounds.ReportRound(told(run, 2), metadata=token(run, tmp_path))
        engine.states[2] = EngineStatus(EngineState.COMPLETED)
        done = await until_state(sdk, run.name, Run.STATE_SUCCEEDED)

    assert (pausing.state, pausing.state_message) == (
        Run.STATE_PAUSING,
        "sdk pauses it; round 1 is finished first",
    )
    assert (again.proceed, reason(refused.value)[1]) == (True, "RUN_ENDED")
    assert paused.state_message == "paused by sdk after 1 of 2 rounds"
    assert paused.pause.requester == "sdk"
    assert pausing.pause.request_time == paused.pause.request_time
    assert not pausing.pause.HasField("start_time")
    assert paused.pause.start_time.ToDatetime() >= paused.pause.request_time.ToDatetime()
    assert still == paused
    assert before == {1: EngineStatus(EngineState.STOPPED)}
    assert (resumed.state, resumed.state_message) == (
        Run.STATE_PENDING,
        "resumed by sdk; goes on after round 1",
    )
    assert not resumed.HasField("pause")
    assert second.proceed
    assert [report.number for report in done.round_reports] == [1, 2]
    assert len(carbon.calls) == 2


async def test_at_once_means_that_the_round_is_given_up_and_asks_the_grid_again(
    coordinate: Coordinate, tmp_path: Path, carbon: Carbon
) -> None:
    engine = ScriptedEngine()
    async with coordinate(engine) as coordinator:
        run = await start(coordinator, tmp_path, engine)
        sdk, app = await coordinator.as_account("sdk"), await coordinator.as_account("fl-serverapp")
        await app.rounds.AwaitRound(ask(run), metadata=token(run, tmp_path))
        await pause(sdk, run.name)
        await pause(sdk, run.name, immediate=True)
        paused = await until_state(sdk, run.name, Run.STATE_PAUSED)
        stopped = engine.states[1]
        unchanged = await pause(sdk, run.name)
        await resume(sdk, run.name)
        await until(submitted(engine, 2))
        answer = await app.rounds.AwaitRound(ask(run), metadata=token(run, tmp_path))

    assert (stopped.state, paused.completed_rounds) == (EngineState.STOPPED, 0)
    assert unchanged == paused
    assert answer.proceed
    assert len(carbon.calls) == 2


async def test_a_pause_that_is_called_off_disturbs_nothing(coordinate: Coordinate, tmp_path: Path) -> None:
    engine = ScriptedEngine()
    async with coordinate(engine) as coordinator:
        run = await start(coordinator, tmp_path, engine)
        sdk, app = await coordinator.as_account("sdk"), await coordinator.as_account("fl-serverapp")
        await app.rounds.AwaitRound(ask(run), metadata=token(run, tmp_path))
        await pause(sdk, run.name)
        running = await resume(sdk, run.name)
        await app.rounds.ReportRound(told(run), metadata=token(run, tmp_path))
        second = await app.rounds.AwaitRound(ask(run, 2), metadata=token(run, tmp_path))

    assert (running.state, running.HasField("pause"), second.proceed) == (Run.STATE_RUNNING, False, True)
    assert engine.states == {1: EngineStatus(EngineState.ACTIVE)}


async def test_who_resumes_while_the_app_ends_for_the_pause_waits_for_that(
    coordinate: Coordinate, tmp_path: Path
) -> None:
    engine = ScriptedEngine()
    async with coordinate(engine) as coordinator:
        run = await start(coordinator, tmp_path, engine)
        sdk, app = await coordinator.as_account("sdk"), await coordinator.as_account("fl-serverapp")
        await app.rounds.AwaitRound(ask(run), metadata=token(run, tmp_path))
        engine.failure = EngineUnavailable("SuperLink is being restarted")
        await pause(sdk, run.name)
        await app.rounds.ReportRound(told(run), metadata=token(run, tmp_path))
        with pytest.raises(grpc.aio.AioRpcError):
            await app.rounds.AwaitRound(ask(run, 2), metadata=token(run, tmp_path))
        # As Flower tells of an app that ended because it was told to.
        engine.states[1] = EngineStatus(EngineState.FAILED, "RunStopped")
        resuming = asyncio.create_task(resume(sdk, run.name))
        await until(lambda: says(sdk, run.name, "trying again: SuperLink is being restarted"))
        engine.failure = None
        resumed = await resuming
        await until(submitted(engine, 2))

    assert resumed.state == Run.STATE_PENDING


async def test_a_run_that_waits_pauses_at_once_and_can_be_cancelled(coordinate: Coordinate) -> None:
    async with coordinate(ScriptedEngine()) as coordinator:
        sdk = await coordinator.as_account("sdk")
        run = await create(sdk)
        await until_state(sdk, run.name, Run.STATE_WAITING_FOR_NODES)
        await pause(sdk, run.name)
        await until_state(sdk, run.name, Run.STATE_PAUSED)
        await sdk.training.CancelTrainingRun(pb.CancelTrainingRunRequest(name=run.name))
        await until_state(sdk, run.name, Run.STATE_CANCELLED)
        with pytest.raises(grpc.aio.AioRpcError) as no_pause:
            await pause(sdk, run.name)
        with pytest.raises(grpc.aio.AioRpcError) as no_resume:
            await resume(sdk, run.name)

    assert reason(no_pause.value) == ("FAILED_PRECONDITION", "RUN_NOT_PAUSABLE")
    assert reason(no_resume.value) == ("FAILED_PRECONDITION", "RUN_NOT_RESUMABLE")


@pytest.mark.parametrize("details", ["round 2 gave no model: 1 of 3 nodes gave a usable result", ""])
async def test_a_run_that_failed_goes_on_from_its_checkpoint(
    coordinate: Coordinate, tmp_path: Path, details: str
) -> None:
    engine = ScriptedEngine()
    async with coordinate(engine) as coordinator:
        run = await start(coordinator, tmp_path, engine)
        sdk, app = await coordinator.as_account("sdk"), await coordinator.as_account("fl-serverapp")
        for number in (1, 2):
            await app.rounds.AwaitRound(ask(run, number), metadata=token(run, tmp_path))
            if number == 1:
                await app.rounds.ReportRound(told(run), metadata=token(run, tmp_path))
        engine.states[1] = EngineStatus(EngineState.FAILED, details)
        failed = await until_state(sdk, run.name, Run.STATE_FAILED)
        resumed = await resume(sdk, run.name)
        await until(submitted(engine, 2))
        answer = await app.rounds.AwaitRound(ask(run, 2), metadata=token(run, tmp_path))

    assert failed.HasField("end_time")
    assert not resumed.HasField("end_time")
    assert (resumed.completed_rounds, answer.proceed) == (1, True)


async def test_an_app_that_fails_in_the_round_that_is_finished_first_fails_the_run(
    coordinate: Coordinate, tmp_path: Path
) -> None:
    engine = ScriptedEngine()
    async with coordinate(engine) as coordinator:
        run = await start(coordinator, tmp_path, engine)
        sdk, app = await coordinator.as_account("sdk"), await coordinator.as_account("fl-serverapp")
        await app.rounds.AwaitRound(ask(run), metadata=token(run, tmp_path))
        await pause(sdk, run.name)
        engine.states[1] = EngineStatus(EngineState.FAILED, "no model")
        failed = await until_state(sdk, run.name, Run.STATE_FAILED)

    assert failed.state_message == "the training app failed: no model"
    assert not failed.HasField("pause")


async def test_a_viewer_may_not_pause(coordinate: Coordinate) -> None:
    async with coordinate(ScriptedEngine()) as coordinator:
        run = await create(await coordinator.as_account("sdk"))
        viewer = await coordinator.as_account("viewer")
        for call in (pause(viewer, run.name), resume(viewer, run.name)):
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await call
            assert error.value.code() is grpc.StatusCode.PERMISSION_DENIED
