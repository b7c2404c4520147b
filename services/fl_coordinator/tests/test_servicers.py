"""TrainingService and NodeService over mTLS, with an engine that does as it is told."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from aegis.fl.v1 import node_service_pb2 as node_pb
from aegis.fl.v1 import training_service_pb2 as pb
from aegis_common.testing.pki import Mesh
from aegis_fl_coordinator.domain.errors import EngineUnavailable
from aegis_fl_coordinator.domain.ports import EngineState, EngineStatus
from aegis_fl_coordinator.domain.run import ConfigValue
from aegis_fl_coordinator.flower import node_key
from aegis_fl_coordinator.testing.calls import create, get, reason, register, submitted, until_state
from aegis_fl_coordinator.testing.engine import ScriptedEngine
from aegis_fl_coordinator.testing.processes import Coordinate, until

Run = pb.TrainingRun


async def test_a_run_waits_for_nodes_and_is_submitted_when_they_are_there(
    coordinate: Coordinate, tmp_path: Path
) -> None:
    engine = ScriptedEngine()
    async with coordinate(engine) as coordinator:
        sdk = await coordinator.as_account("sdk")
        run = await create(sdk, app_config={"local-epochs": 3})
        waiting = await until_state(sdk, run.name, Run.STATE_WAITING_FOR_NODES)
        await register(coordinator, tmp_path)
        engine.online.add(101)
        await until_state(sdk, run.name, Run.STATE_PENDING)

    assert waiting.state_message == "0 of 1 nodes are online"
    assert engine.runs == {1: {"local-epochs": 3, "aegis-run": run.name.removeprefix("trainingRuns/")}}


async def test_a_run_says_who_made_it_what_runs_and_in_which_trace(coordinate: Coordinate) -> None:
    async with coordinate(ScriptedEngine()) as coordinator:
        sdk = await coordinator.as_account("sdk")
        run = await create(sdk)

    assert run.creator == "sdk"
    assert len(run.app_sha256) == 64
    assert len(run.trace_id) == 32
    assert run.carbon_policy.max_wait.ToTimedelta().total_seconds() == 3600


async def test_a_run_without_numbers_gets_the_defaults(coordinate: Coordinate) -> None:
    async with coordinate(ScriptedEngine(), num_rounds=7, min_clients=4) as coordinator:
        run = await create(await coordinator.as_account("sdk"), rounds=0, min_nodes=0)

    assert (run.rounds, run.min_nodes) == (7, 4)


async def test_a_request_id_makes_one_run(coordinate: Coordinate) -> None:
    request_id = str(uuid.uuid4())
    async with coordinate(ScriptedEngine()) as coordinator:
        sdk = await coordinator.as_account("sdk")
        first = await create(sdk, request_id=request_id)
        again = await create(sdk, request_id=request_id)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await create(sdk, request_id=request_id, rounds=9)

    assert first.name == again.name
    assert reason(error.value) == ("ALREADY_EXISTS", "REQUEST_ID_REUSED")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"app": "nothing"}, ("NOT_FOUND", "UNKNOWN_APP")),
        ({"app_config": {"colour": "red"}}, ("INVALID_ARGUMENT", "INVALID_RUN_CONFIG")),
        ({"app_config": {"seed": [1]}}, ("INVALID_ARGUMENT", "INVALID_RUN_CONFIG")),
        ({"privacy": pb.Privacy(epsilon_budget=1)}, ("INVALID_ARGUMENT", "INVALID_RUN_CONFIG")),
        ({"privacy": pb.Privacy(delta=0.5)}, ("INVALID_ARGUMENT", "INVALID_REQUEST")),
        (
            {"privacy": pb.Privacy(local_noise=pb.LocalNoise(clipping_norm=1))},
            ("INVALID_ARGUMENT", "INVALID_REQUEST"),
        ),
        (
            {
                "evaluation": Run.EVALUATION_FEDERATED,
                "privacy": pb.Privacy(local_noise=pb.LocalNoise(clipping_norm=1, noise_multiplier=1)),
            },
            ("INVALID_ARGUMENT", "INVALID_RUN_CONFIG"),
        ),
        ({"rounds": 10_001}, ("INVALID_ARGUMENT", "INVALID_REQUEST")),
    ],
)
async def test_a_bad_run_is_refused(
    coordinate: Coordinate, fields: dict[str, Any], expected: tuple[str, str]
) -> None:
    async with coordinate(ScriptedEngine()) as coordinator:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await create(await coordinator.as_account("sdk"), **fields)

    assert reason(error.value) == expected


async def test_a_viewer_may_look_but_not_start(coordinate: Coordinate) -> None:
    async with coordinate(ScriptedEngine()) as coordinator:
        run = await create(await coordinator.as_account("sdk"))
        viewer = await coordinator.as_account("viewer")
        assert (await get(viewer, run.name)).name == run.name
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await create(viewer)

    assert error.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_another_tenant_sees_nothing(coordinate: Coordinate, mesh: Mesh, tmp_path: Path) -> None:
    other = {"tenant": "other", "roles": ["admin"], "via_gateway": True}
    mesh.write_identities({mesh.spiffe_id("stranger"): other})
    engine = ScriptedEngine()
    async with coordinate(engine) as coordinator:
        run = await create(await coordinator.as_account("sdk"))
        await register(coordinator, tmp_path)
        engine.online.add(101)
        stranger = await coordinator.as_account("stranger")
        listed = await stranger.training.ListTrainingRuns(pb.ListTrainingRunsRequest())
        nodes = await stranger.nodes.ListNodes(node_pb.ListNodesRequest())
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await stranger.training.CancelTrainingRun(pb.CancelTrainingRunRequest(name=run.name))
        theirs = await create(stranger)
        waiting = await until_state(stranger, theirs.name, Run.STATE_WAITING_FOR_NODES)

    assert (len(listed.training_runs), len(nodes.nodes)) == (0, 0)
    assert reason(error.value) == ("NOT_FOUND", "UNKNOWN_TRAINING_RUN")
    assert waiting.state_message == "0 of 1 nodes are online"


async def test_runs_are_paged_newest_first(coordinate: Coordinate) -> None:
    async with coordinate(ScriptedEngine()) as coordinator:
        sdk = await coordinator.as_account("sdk")
        names = {(await create(sdk)).name for _ in range(3)}
        first = await sdk.training.ListTrainingRuns(pb.ListTrainingRunsRequest(page_size=2))
        second = await sdk.training.ListTrainingRuns(
            pb.ListTrainingRunsRequest(page_size=2, page_token=first.next_page_token)
        )
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await sdk.training.ListTrainingRuns(pb.ListTrainingRunsRequest(page_token="x"))

    listed = [run.name for answer in (first, second) for run in answer.training_runs]
    assert listed == sorted(names, reverse=True)
    assert second.next_page_token == ""
    assert reason(error.value) == ("INVALID_ARGUMENT", "INVALID_PAGE_TOKEN")


async def test_a_run_that_waits_is_cancelled(coordinate: Coordinate) -> None:
    async with coordinate(ScriptedEngine()) as coordinator:
        sdk = await coordinator.as_account("sdk")
        run = await create(sdk)
        request = pb.CancelTrainingRunRequest(name=run.name)
        first = (await sdk.training.CancelTrainingRun(request)).training_run
        ended = await until_state(sdk, run.name, Run.STATE_CANCELLED)
        again = (await sdk.training.CancelTrainingRun(request)).training_run

    assert first.state == Run.STATE_CANCELLING
    assert again == ended


async def test_a_run_in_flower_is_stopped_there(coordinate: Coordinate, tmp_path: Path) -> None:
    engine = ScriptedEngine(online={101})
    async with coordinate(engine) as coordinator:
        await register(coordinator, tmp_path)
        sdk = await coordinator.as_account("sdk")
        run = await create(sdk)
        await until(submitted(engine))
        await sdk.training.CancelTrainingRun(pb.CancelTrainingRunRequest(name=run.name))
        await until_state(sdk, run.name, Run.STATE_CANCELLED)

    assert engine.states == {1: EngineStatus(EngineState.STOPPED)}


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (EngineStatus(EngineState.FAILED, "boom"), "the training app failed: boom"),
        (
            EngineStatus(EngineState.FAILED),
            "the training app failed, or was cut off when SuperLink stopped; Flower gives no details",
        ),
        (EngineStatus(EngineState.STOPPED), "stopped from outside the coordinator"),
        (EngineStatus(EngineState.COMPLETED), "the training app ended after 0 of 2 rounds"),
    ],
)
async def test_a_run_that_ends_early_in_flower_has_failed(
    coordinate: Coordinate, tmp_path: Path, status: EngineStatus, message: str
) -> None:
    engine = ScriptedEngine(online={101})
    async with coordinate(engine) as coordinator:
        await register(coordinator, tmp_path)
        sdk = await coordinator.as_account("sdk")
        run = await create(sdk)
        await until(submitted(engine))
        engine.states[1] = status
        ended = await until_state(sdk, run.name, Run.STATE_FAILED)

    assert ended.state_message == message
    assert not (tmp_path / "volume" / "runs" / run.name.removeprefix("trainingRuns/") / "token").exists()


async def test_a_run_goes_on_after_the_coordinator_was_restarted(
    coordinate: Coordinate, tmp_path: Path
) -> None:
    engine = ScriptedEngine(online={101})
    async with coordinate(engine) as coordinator:
        await register(coordinator, tmp_path)
        run = await create(await coordinator.as_account("sdk"))
        await until(submitted(engine))
    engine.states[1] = EngineStatus(EngineState.FAILED, "boom")
    async with coordinate(engine) as coordinator:
        ended = await until_state(await coordinator.as_account("sdk"), run.name, Run.STATE_FAILED)

    assert ended.state_message == "the training app failed: boom"
    assert len(engine.runs) == 1


async def test_a_submission_that_was_not_noted_is_found_and_not_repeated(
    coordinate: Coordinate, tmp_path: Path
) -> None:
    engine = LostAnswer(online={101})
    async with coordinate(engine) as coordinator:
        await register(coordinator, tmp_path)
        sdk = await coordinator.as_account("sdk")
        run = await create(sdk)
        await until(submitted(engine))
        engine.states[1] = EngineStatus(EngineState.FAILED, "boom")
        await until_state(sdk, run.name, Run.STATE_FAILED)

    assert len(engine.runs) == 1


async def test_a_run_outlasts_a_superlink_that_does_not_answer(
    coordinate: Coordinate, tmp_path: Path
) -> None:
    engine = ScriptedEngine(online={101})
    async with coordinate(engine) as coordinator:
        await register(coordinator, tmp_path)
        engine.failure = EngineUnavailable("gone")
        sdk = await coordinator.as_account("sdk")
        run = await create(sdk)
        await asyncio.sleep(0.2)
        standing = await get(sdk, run.name)
        engine.failure = None
        await until(submitted(engine))

    assert (standing.state, standing.state_message) == (Run.STATE_PENDING, "trying again: gone")


async def test_a_watcher_sees_the_run_every_change_and_the_end(
    coordinate: Coordinate, tmp_path: Path
) -> None:
    engine = ScriptedEngine(online={101})
    async with coordinate(engine) as coordinator:
        sdk = await coordinator.as_account("sdk")
        run = await create(sdk)
        await until_state(sdk, run.name, Run.STATE_WAITING_FOR_NODES)
        events = []
        async for event in sdk.training.WatchTrainingRun(pb.WatchTrainingRunRequest(name=run.name)):
            events.append(event)
            if len(events) == 1:
                await register(coordinator, tmp_path)
            if engine.states:
                engine.states[1] = EngineStatus(EngineState.FAILED, "boom")
        resumed = sdk.training.WatchTrainingRun(
            pb.WatchTrainingRunRequest(name=run.name, resume_token=events[0].resume_token)
        )
        again = [event async for event in resumed]

    assert [event.WhichOneof("event") for event in events] == ["state_change"] * 3 + ["end"]
    states = [event.state_change.state for event in events[:-1]]
    assert states == [Run.STATE_WAITING_FOR_NODES, Run.STATE_PENDING, Run.STATE_FAILED]
    assert events[-1].end.state == Run.STATE_FAILED
    assert again == events[1:]


async def test_a_watch_ends_by_reconnect_before_its_deadline(coordinate: Coordinate) -> None:
    async with coordinate(ScriptedEngine()) as coordinator:
        sdk = await coordinator.as_account("sdk")
        run = await create(sdk)
        request = pb.WatchTrainingRunRequest(name=run.name)
        events = [event async for event in sdk.training.WatchTrainingRun(request, timeout=2)]

    assert events[-1].WhichOneof("event") == "reconnect"
    assert events[-1].resume_token


@pytest.mark.parametrize("token", ["x", "WyJhIiwxXQ"])
async def test_a_resume_token_of_nothing_is_refused(coordinate: Coordinate, token: str) -> None:
    async with coordinate(ScriptedEngine()) as coordinator:
        sdk = await coordinator.as_account("sdk")
        run = await create(sdk)
        request = pb.WatchTrainingRunRequest(name=run.name, resume_token=token)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await anext(aiter(sdk.training.WatchTrainingRun(request)))

    assert reason(error.value) == ("INVALID_ARGUMENT", "INVALID_RESUME_TOKEN")


async def test_a_node_is_registered_once_listed_and_removed(coordinate: Coordinate, tmp_path: Path) -> None:
    engine = ScriptedEngine(online={101})
    async with coordinate(engine) as coordinator:
        node = await register(coordinator, tmp_path)
        again = await register(coordinator, tmp_path)
        admin = await coordinator.as_account("admin")
        listed = await admin.nodes.ListNodes(node_pb.ListNodesRequest())
        got = await admin.nodes.GetNode(node_pb.GetNodeRequest(name=node.name))
        await admin.nodes.RemoveNode(node_pb.RemoveNodeRequest(name=node.name))
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await admin.nodes.RemoveNode(node_pb.RemoveNodeRequest(name=node.name))

    assert (node.name, node.zone, node.state) == ("nodes/site-1", "zones/GB", node_pb.Node.STATE_ONLINE)
    assert again == node == got.node
    assert list(listed.nodes) == [node]
    assert reason(error.value) == ("NOT_FOUND", "UNKNOWN_NODE")
    assert engine.keys == {}


async def test_a_key_or_a_name_of_another_node_is_refused(coordinate: Coordinate, tmp_path: Path) -> None:
    async with coordinate(ScriptedEngine()) as coordinator:
        node = await register(coordinator, tmp_path)
        admin = await coordinator.as_account("admin")
        other = node_pb.Node(public_key_pem=node_key(tmp_path / "other.key"))
        for node_id, body in (("site-2", node), ("site-1", other)):
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await admin.nodes.RegisterNode(node_pb.RegisterNodeRequest(node_id=node_id, node=body))
            assert reason(error.value) == ("ALREADY_EXISTS", "NODE_EXISTS")


@pytest.mark.parametrize(
    "key", ["", "no key", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"]
)
async def test_what_is_no_key_is_refused(coordinate: Coordinate, key: str) -> None:
    async with coordinate(ScriptedEngine()) as coordinator:
        admin = await coordinator.as_account("admin")
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await admin.nodes.RegisterNode(
                node_pb.RegisterNodeRequest(node_id="site-1", node=node_pb.Node(public_key_pem=key))
            )

    assert reason(error.value) == ("INVALID_ARGUMENT", "INVALID_PUBLIC_KEY")


async def test_only_an_admin_registers_nodes(coordinate: Coordinate, tmp_path: Path) -> None:
    async with coordinate(ScriptedEngine()) as coordinator:
        sdk = await coordinator.as_account("sdk")
        node = node_pb.Node(public_key_pem=node_key(tmp_path / "k"))
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await sdk.nodes.RegisterNode(node_pb.RegisterNodeRequest(node_id="site-1", node=node))

    assert error.value.code() is grpc.StatusCode.PERMISSION_DENIED


class LostAnswer(ScriptedEngine):
    """An engine that starts the first run and is not heard."""

    async def start_run(self, bundle: bytes, config: Mapping[str, ConfigValue]) -> int:
        number = await super().start_run(bundle, config)
        if number == 1:
            raise EngineUnavailable("the answer was lost")
        return number
