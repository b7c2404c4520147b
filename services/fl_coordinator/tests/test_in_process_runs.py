"""Runs in process through the coordinator's own API: created, refused, stopped, resumed after kill -9."""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import grpc
import psutil
import pytest

from aegis.fl.v1 import training_service_pb2 as pb
from aegis_common.testing.pki import Mesh
from aegis_common.testing.ports import free_port
from aegis_fl_coordinator.adapters.apps import FolderCatalogue
from aegis_fl_coordinator.testing.calls import create, get, reason, until_state
from aegis_fl_coordinator.testing.engine import ScriptedEngine
from aegis_fl_coordinator.testing.peers import Agent, Carbon
from aegis_fl_coordinator.testing.processes import Coordinate, Processes, Stubs, until

STEPS: Final = Path(__file__).parent / "apps" / "steps"
Run = pb.TrainingRun
IN_PROCESS: Final = Run.ENGINE_IN_PROCESS


@pytest.fixture(scope="module")
def allowed() -> dict[str, Any]:
    """Return the settings of a coordinator that runs the tests' app in process."""
    digest = FolderCatalogue([STEPS]).get("steps").sha256
    return {"in_process": True, "app_dirs": (STEPS,), "approved_apps": (digest,)}


async def download(stubs: Stubs, **fields: Any) -> bytes:
    call = stubs.training.DownloadModel(pb.DownloadModelRequest(**fields))
    return b"".join([piece.content.data async for piece in call])


def steps(**changed: Any) -> dict[str, Any]:
    values = {"app": "steps", "min_nodes": 0, "virtual_nodes": 4, "rounds": 4, "seed": 3}
    return {"engine": IN_PROCESS, **values, **changed}


async def test_a_run_in_process_needs_no_site_and_goes_through_the_gate(
    coordinate: Coordinate, carbon: Carbon, allowed: dict[str, Any]
) -> None:
    async with coordinate(ScriptedEngine(), **allowed) as coordinator:
        sdk = await coordinator.as_account("sdk")
        run = await create(sdk, **steps(aggregation=pb.Aggregation(strategy="FedMedian", fraction=0.75)))
        done = await until_state(sdk, run.name, Run.STATE_SUCCEEDED)
        first = await sdk.training.ListRounds(pb.ListRoundsRequest(parent=run.name, page_size=3))
        second = await sdk.training.ListRounds(
            pb.ListRoundsRequest(parent=run.name, page_size=3, page_token=first.next_page_token)
        )
        kept = await download(sdk, name=run.name, round=2)
        rest = await download(sdk, name=run.name, round=2, offset=100)
        onnx = await download(sdk, name=run.name, format=pb.DownloadModelRequest.FORMAT_ONNX)
        with pytest.raises(grpc.aio.AioRpcError) as gone:
            await download(sdk, name=run.name, round=9)
        with pytest.raises(grpc.aio.AioRpcError) as beyond:
            await download(sdk, name=run.name, offset=10**9)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await sdk.training.ListRounds(
                pb.ListRoundsRequest(parent="trainingRuns/other", page_token=first.next_page_token)
            )

    assert [report.number for report in [*first.rounds, *second.rounds]] == [1, 2, 3, 4]
    assert second.next_page_token == ""
    assert hashlib.sha256(kept).hexdigest() == first.rounds[1].checkpoint_sha256
    assert rest == kept[100:]
    assert len(onnx) == 24  # three float64, as the app exports them
    assert reason(gone.value) == ("NOT_FOUND", "MODEL_NOT_KEPT")
    assert "there are those after 1, 2, 3, 4" in str(gone.value.details())
    assert reason(beyond.value) == ("INVALID_ARGUMENT", "OFFSET_OUT_OF_RANGE")
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert [len(report.node_outcomes) for report in first.rounds] == [3] * 3
    for report in first.rounds:
        assert report.bytes_sent == sum(one.bytes_sent for one in report.node_outcomes) > 0
        assert report.cpu_seconds > 0
        assert report.attempt == 1
        assert report.start_time.ToDatetime() < report.end_time.ToDatetime()
        assert report.gate.reason == "BELOW_THRESHOLD"
    assert [len(report.node_outcomes) for report in done.round_reports] == [0] * 4
    assert [report.number for report in done.round_reports] == [1, 2, 3, 4]
    assert [report.node_results for report in done.round_reports] == [3] * 4
    assert {report.gate.reason for report in done.round_reports} == {"BELOW_THRESHOLD"}
    assert len(carbon.calls) == 4
    assert (done.engine, done.virtual_nodes, done.min_nodes, done.seed) == (IN_PROCESS, 4, 4, 3)
    assert (done.aggregation.strategy, done.aggregation.max_update_ratio) == ("FedMedian", 10)


async def test_runs_in_process_are_off_unless_the_operator_allows_them(
    coordinate: Coordinate, allowed: dict[str, Any]
) -> None:
    async with coordinate(ScriptedEngine(), **allowed | {"in_process": False}) as coordinator:
        sdk = await coordinator.as_account("sdk")
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await create(sdk, **steps())

    assert reason(error.value) == ("FAILED_PRECONDITION", "ENGINE_NOT_ENABLED")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"min_nodes": 5}, "virtual_nodes is 4, fewer than min_nodes 5"),
        ({"engine": Run.ENGINE_DEPLOYMENT}, "a run at the sites has no virtual nodes"),
        ({"aggregation": pb.Aggregation(strategy="Krumm")}, "there is no strategy 'Krumm'"),
        ({"aggregation": pb.Aggregation(strategy="not a name")}, "aggregation.strategy"),
    ],
)
async def test_what_does_not_fit_is_refused(
    coordinate: Coordinate, allowed: dict[str, Any], fields: dict[str, Any], message: str
) -> None:
    async with coordinate(ScriptedEngine(), **allowed) as coordinator:
        sdk = await coordinator.as_account("sdk")
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await create(sdk, **steps(**fields))

    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert message in str(error.value.details())


async def test_an_app_that_fails_fails_the_run_with_its_own_words(
    coordinate: Coordinate, allowed: dict[str, Any]
) -> None:
    async with coordinate(ScriptedEngine(), **allowed) as coordinator:
        sdk = await coordinator.as_account("sdk")
        run = await create(sdk, **steps(virtual_nodes=2, aggregation=pb.Aggregation(strategy="no_module:X")))
        failed = await until_state(sdk, run.name, Run.STATE_FAILED)

    assert "strategy 'no_module:X' cannot be imported: No module named" in failed.state_message


async def test_a_run_that_is_cancelled_leaves_no_process(
    coordinate: Coordinate, allowed: dict[str, Any]
) -> None:
    others = set(psutil.Process().children(recursive=True))
    async with coordinate(ScriptedEngine(), **allowed) as coordinator:
        sdk = await coordinator.as_account("sdk")
        run = await create(sdk, **steps(rounds=1000))
        await until(lambda: has_rounds(sdk, run.name, 1))
        tree = [child for child in psutil.Process().children(recursive=True) if child not in others]
        await sdk.training.CancelTrainingRun(pb.CancelTrainingRunRequest(name=run.name))
        await until_state(sdk, run.name, Run.STATE_CANCELLED)
        _, alive = await asyncio.to_thread(psutil.wait_procs, tree, 10)

    assert len(tree) >= 2
    assert alive == []


async def has_rounds(stubs: Stubs, name: str, number: int) -> bool:
    return (await get(stubs, name)).completed_rounds >= number


@pytest.fixture
def start_coordinator(
    mesh: Mesh, carbon: Carbon, agent: Agent, processes: Processes, allowed: dict[str, Any], tmp_path: Path,
    coordinate: Coordinate,
) -> Callable[[], tuple[psutil.Popen, int]]:  # fmt: skip
    """Return what starts a coordinator as a process of its own, on one volume."""

    def start() -> tuple[psutil.Popen, int]:
        port, tls, prefix = free_port(), mesh.tls("fl-serverapp"), "AEGIS_FL_COORDINATOR_"
        values = {
            "LISTEN": f"127.0.0.1:{port}",
            "DATA_DIR": tmp_path / "volume",
            "SUPERLINK": "127.0.0.1:1",
            "SUPERLINK_CA": mesh.ca.bundle,
            "SERVERAPP_TLS__CERT": tls.cert,
            "SERVERAPP_TLS__KEY": tls.key,
            "SERVERAPP_TLS__BUNDLE": tls.bundle,
            "CARBON": f"127.0.0.1:{carbon.port}",
            "AGENT": f"127.0.0.1:{agent.port}",
            "MODEL_STORE": (tmp_path / "models").as_uri(),
            "SIGNING_KEY": tmp_path / "signing.key",
            "IN_PROCESS": "true",
            "APP_DIRS": f'["{STEPS}"]',
            "APPROVED_APPS": f'["{allowed["approved_apps"][0]}"]',
            "LOOK": 0.05,
        }
        environment = mesh.service_env(prefix, "fl-coordinator")
        environment |= {prefix + name: str(value) for name, value in values.items()}
        command = [str(Path(sys.executable).with_name("aegis-fl-coordinator"))]
        return processes.start("coordinator", command, environment), port

    return start


async def curve(mesh: Mesh, port: int, name: str) -> list[str]:
    async with mesh.channel(port, "fl-coordinator", account="sdk") as channel:
        await asyncio.wait_for(channel.channel_ready(), 60)
        done = await until_state(Stubs(channel), name, Run.STATE_SUCCEEDED)
    assert [report.number for report in done.round_reports] == list(range(1, done.rounds + 1))
    return [report.checkpoint_sha256 for report in done.round_reports]


async def begun(mesh: Mesh, port: int, *, rounds_first: int) -> str:
    async with mesh.channel(port, "fl-coordinator", account="sdk") as channel:
        await asyncio.wait_for(channel.channel_ready(), 60)
        stubs = Stubs(channel)
        run = await create(stubs, **steps(rounds=8, app_config={"pause": 0.1}))
        await until(lambda: has_rounds(stubs, run.name, rounds_first))
    return run.name


async def test_a_coordinator_that_was_killed_goes_on_with_the_same_curve_and_no_extra_round(
    mesh: Mesh, start_coordinator: Callable[[], tuple[psutil.Popen, int]]
) -> None:
    process, port = start_coordinator()
    name = await begun(mesh, port, rounds_first=3)
    apps = process.children(recursive=True)
    process.kill()
    _, alive = await asyncio.to_thread(psutil.wait_procs, [process, *apps], 10)
    _, port = start_coordinator()
    killed = await curve(mesh, port, name)
    undisturbed = await curve(mesh, port, await begun(mesh, port, rounds_first=0))

    assert len(apps) >= 2
    assert alive == []
    assert killed == undisturbed


@pytest.mark.long
async def test_a_paused_run_stays_so_over_a_kill_and_goes_on_with_the_same_curve(
    mesh: Mesh, start_coordinator: Callable[[], tuple[psutil.Popen, int]]
) -> None:
    process, port = start_coordinator()
    name = await begun(mesh, port, rounds_first=2)
    async with mesh.channel(port, "fl-coordinator", account="sdk") as channel:
        stubs = Stubs(channel)
        await stubs.training.PauseTrainingRun(pb.PauseTrainingRunRequest(name=name, immediate=True))
        paused = await until_state(stubs, name, Run.STATE_PAUSED)
    apps = process.children(recursive=True)
    process.kill()
    _, port = start_coordinator()
    async with mesh.channel(port, "fl-coordinator", account="sdk") as channel:
        await asyncio.wait_for(channel.channel_ready(), 60)
        stubs = Stubs(channel)
        still = await get(stubs, name)
        await stubs.training.ResumeTrainingRun(pb.ResumeTrainingRunRequest(name=name))
    resumed = await curve(mesh, port, name)
    undisturbed = await curve(mesh, port, await begun(mesh, port, rounds_first=0))

    assert apps == []
    assert still == paused
    assert resumed == undisturbed


async def test_an_app_process_that_was_killed_is_started_again_and_goes_on(
    mesh: Mesh, start_coordinator: Callable[[], tuple[psutil.Popen, int]]
) -> None:
    process, port = start_coordinator()
    name = await begun(mesh, port, rounds_first=2)
    (app,) = process.children()
    app.kill()
    killed = await curve(mesh, port, name)

    assert len(set(killed)) == 8
