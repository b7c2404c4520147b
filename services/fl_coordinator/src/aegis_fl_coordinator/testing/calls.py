"""What tests do to a coordinator again and again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import grpc.aio

from aegis.fl.v1 import node_service_pb2 as node_pb
from aegis.fl.v1 import round_service_pb2 as round_pb
from aegis.fl.v1 import training_service_pb2 as pb
from aegis_common.rpc.errors import details_of
from aegis_fl_coordinator.flower import node_key
from aegis_fl_coordinator.testing.engine import ScriptedEngine
from aegis_fl_coordinator.testing.processes import Coordinator, Stubs, until


def reason(error: grpc.aio.AioRpcError) -> tuple[str, str]:
    """Return code and reason of a failed call."""
    return error.code().name, details_of(error).reason


async def create(stubs: Stubs, *, request_id: str = "", **fields: Any) -> pb.TrainingRun:
    """Create a run of the digits app: two rounds, one node, unless *fields* say otherwise."""
    values: dict[str, Any] = {"app": "digits", "rounds": 2, "min_nodes": 1, **fields}
    run = pb.TrainingRun(**values)
    request = pb.CreateTrainingRunRequest(training_run=run, request_id=request_id)
    return (await stubs.training.CreateTrainingRun(request)).training_run


async def get(stubs: Stubs, name: str) -> pb.TrainingRun:
    return (await stubs.training.GetTrainingRun(pb.GetTrainingRunRequest(name=name))).training_run


async def until_state(stubs: Stubs, name: str, state: pb.TrainingRun.State.ValueType) -> pb.TrainingRun:
    """Wait for a run to reach *state* and return it."""

    async def reached() -> bool:
        return (await get(stubs, name)).state == state

    await until(reached)
    return await get(stubs, name)


async def register(
    coordinator: Coordinator,
    folder: Path,
    node_id: str = "site-1",
    *,
    zone: str = "zones/GB",
    watts: float = 0,
    labels: Mapping[str, str] | None = None,
) -> node_pb.Node:
    """Register a node with a key of its own in *folder*."""
    admin = await coordinator.as_account("admin")
    key = node_key(folder / f"{node_id}.key")
    node = node_pb.Node(public_key_pem=key, zone=zone, watts=watts, labels=labels)
    return (await admin.nodes.RegisterNode(node_pb.RegisterNodeRequest(node_id=node_id, node=node))).node


def submitted(engine: ScriptedEngine, runs: int = 1) -> Callable[[], Awaitable[bool]]:
    """Return a check that *runs* runs are in the engine."""

    async def check() -> bool:
        return len(engine.states) >= runs

    return check


async def start(
    coordinator: Coordinator, folder: Path, engine: ScriptedEngine, **fields: Any
) -> pb.TrainingRun:
    """Return a run that is in the engine."""
    await register(coordinator, folder)
    engine.online.add(101)
    before = len(engine.states)
    run = await create(await coordinator.as_account("sdk"), **fields)
    await until(submitted(engine, before + 1))
    return run


def folder_of(run: pb.TrainingRun, volume: Path) -> Path:
    """Return a run's folder; *volume* is the folder that holds the coordinator's `volume`."""
    return volume / "volume" / "runs" / run.name.removeprefix("trainingRuns/")


def token(run: pb.TrainingRun, volume: Path) -> tuple[tuple[str, str], ...]:
    """Return the metadata with which a run's app calls."""
    return (("aegis-run-token", (folder_of(run, volume) / "token").read_text()),)


def ask(run: pb.TrainingRun, number: int = 1, nodes: int = 1) -> round_pb.AwaitRoundRequest:
    return round_pb.AwaitRoundRequest(training_run=run.name, round=number, nodes_online=nodes)


def told(run: pb.TrainingRun, number: int = 1, **fields: Any) -> round_pb.ReportRoundRequest:
    return round_pb.ReportRoundRequest(training_run=run.name, round=pb.Round(number=number, **fields))
