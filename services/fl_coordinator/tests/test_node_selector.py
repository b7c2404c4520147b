"""A run takes part in what it selects: who is asked, whose grid counts, what it says while it waits."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import grpc.aio
import pytest

from aegis.fl.v1 import node_service_pb2 as node_pb
from aegis.fl.v1 import training_service_pb2 as pb
from aegis_fl_coordinator.domain.nodes import Node, NodeSelector
from aegis_fl_coordinator.runfile import RunFile
from aegis_fl_coordinator.testing.calls import (
    ask,
    create,
    folder_of,
    get,
    reason,
    register,
    submitted,
    token,
    until_state,
)
from aegis_fl_coordinator.testing.engine import ScriptedEngine
from aegis_fl_coordinator.testing.peers import Carbon
from aegis_fl_coordinator.testing.processes import Coordinate, until

Run = pb.TrainingRun
MRI = {"scanner": "mri"}


@pytest.mark.parametrize(
    ("selector", "selected"),
    [
        (NodeSelector(), True),
        (NodeSelector(("zones/FR", "zones/GB")), True),
        (NodeSelector(("zones/FR",)), False),
        (NodeSelector((), {"scanner": "mri"}), True),
        (NodeSelector((), {"scanner": "ct"}), False),
        (NodeSelector((), {"scanner": "mri", "ward": "3"}), False),
        (NodeSelector(("zones/FR",), {"scanner": "mri"}), False),
    ],
)
def test_a_node_has_to_meet_all_of_it(selector: NodeSelector, selected: bool) -> None:
    node = Node("default", "a", "PEM", "zones/GB", 1, datetime(2026, 11, 25, tzinfo=UTC), labels=MRI)

    assert selector.selects(node) is selected


async def test_only_selected_nodes_are_asked_and_only_their_grid_counts(
    coordinate: Coordinate, tmp_path: Path, carbon: Carbon
) -> None:
    engine = ScriptedEngine(online={101, 102})
    async with coordinate(engine) as coordinator:
        await register(coordinator, tmp_path, "other", zone="zones/PL", labels={"scanner": "ct"})
        sdk = await coordinator.as_account("sdk")
        run = await create(sdk, node_selector=pb.NodeSelector(zones=["zones/FR", "zones/GB"], labels=MRI))
        waiting = await until_state(sdk, run.name, Run.STATE_WAITING_FOR_NODES)
        await register(coordinator, tmp_path, "mine", labels=MRI)
        await until(submitted(engine))
        nodes = RunFile.read(folder_of(run, tmp_path)).nodes
        app = await coordinator.as_account("fl-serverapp")
        await app.rounds.AwaitRound(ask(run), metadata=token(run, tmp_path))
        counted = {request.zone for request, _ in carbon.calls}
        none_left = await app.rounds.AwaitRound(ask(run, 2, nodes=0), metadata=token(run, tmp_path))
        later = await get(sdk, run.name)
        listed = await sdk.nodes.ListNodes(node_pb.ListNodesRequest())

    wanted = "zones/FR or zones/GB, scanner=mri"
    assert waiting.state_message == (
        f"0 of 1 nodes are online; 0 nodes are registered that the run takes: {wanted}"
    )
    assert waiting.node_selector == pb.NodeSelector(zones=["zones/FR", "zones/GB"], labels=MRI)
    assert nodes == {102: "nodes/mine"}
    assert counted == {"zones/GB"}
    assert none_left.proceed is False
    assert later.state_message == (
        f"0 of 1 nodes are online; 1 node is registered that the run takes: {wanted}"
    )
    assert [dict(node.labels) for node in listed.nodes] == [MRI, {"scanner": "ct"}]


async def test_a_run_in_process_selects_no_nodes(coordinate: Coordinate) -> None:
    async with coordinate(ScriptedEngine(), in_process=True) as coordinator:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await create(
                await coordinator.as_account("sdk"),
                engine=Run.ENGINE_IN_PROCESS,
                node_selector=pb.NodeSelector(labels=MRI),
            )

    assert reason(error.value) == ("INVALID_ARGUMENT", "INVALID_RUN_CONFIG")
