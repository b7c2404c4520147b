"""The contract with Flower: what the adapter relies on, against a real SuperLink."""

from __future__ import annotations

from pathlib import Path

import pytest

from aegis_common.errors import ConfigurationError
from aegis_common.testing.pki import Mesh
from aegis_common.testing.ports import free_port
from aegis_fl_coordinator.adapters.flower_control import FlowerControl, app_config, build_bundle
from aegis_fl_coordinator.apps import BUNDLED
from aegis_fl_coordinator.domain.errors import EngineRefused, EngineUnavailable, InvalidPublicKey
from aegis_fl_coordinator.domain.nodes import NodeState
from aegis_fl_coordinator.domain.ports import EngineState
from aegis_fl_coordinator.flower import node_key
from aegis_fl_coordinator.runfile import RUN_KEY
from aegis_fl_coordinator.testing.processes import Processes, StartSuperLink, until

DIGITS = BUNDLED / "digits"


async def test_the_contract_with_superlink(
    superlink: StartSuperLink, processes: Processes, tmp_path: Path
) -> None:
    """One test, for SuperLink takes seconds to start."""
    link = await superlink()
    control = link.control

    # Nodes: a key registers once, is found again, and is burnt when the node is removed.
    key = node_key(tmp_path / "node.key")
    node = await control.register_node(key)
    assert await control.register_node(key) == node
    (seen,) = await control.nodes()
    assert (seen.engine_node, seen.public_key_pem, seen.state) == (node, key, NodeState.REGISTERED)
    assert seen.last_active is None
    await control.unregister_node(node)
    await control.unregister_node(node)
    assert await control.nodes() == []
    with pytest.raises(InvalidPublicKey, match="make a new one"):
        await control.register_node(key)

    # Runs: submitted, found by their configuration, listed, stopped.
    assert await control.find_run(RUN_KEY, "r1") is None
    run = await control.start_run(build_bundle(DIGITS), {RUN_KEY: "r1", "seed": 3, "learning-rate": 0.5})
    assert await control.find_run(RUN_KEY, "r1") == run
    assert await control.find_run(RUN_KEY, "r2") is None
    await control.stop_run(run)
    await control.stop_run(run)

    async def finished() -> bool:
        return (await control.status(run)).state is not EngineState.ACTIVE

    await until(finished)
    assert (await control.status(run)).state in (EngineState.STOPPED, EngineState.FAILED)
    assert (await control.status(12345)).state is EngineState.FAILED
    with pytest.raises(EngineRefused, match="HTTP 4"):
        await control.start_run(build_bundle(DIGITS), {"colour": "red"})

    # A restart keeps nodes and runs, which is why one file on the volume holds them.
    other = await control.register_node(node_key(tmp_path / "other.key"))
    processes.stop()
    with pytest.raises(EngineUnavailable):
        await control.nodes()
    assert not await control.healthy()
    control = (await superlink()).control
    assert [one.engine_node for one in await control.nodes()] == [other]
    assert await control.find_run(RUN_KEY, "r1") == run


async def test_a_certificate_of_another_authority_is_refused(
    superlink: StartSuperLink, tmp_path: Path
) -> None:
    link = await superlink()
    stranger = Mesh(tmp_path / "stranger")
    control = FlowerControl(f"127.0.0.1:{link.port}", ca=stranger.ca.bundle)

    assert not await control.healthy()
    with pytest.raises(EngineUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
        await control.nodes()
    control.close()


async def test_without_a_superlink_calls_are_unavailable(mesh: Mesh) -> None:
    control = FlowerControl(f"127.0.0.1:{free_port()}", ca=mesh.ca.bundle)

    assert not await control.healthy()
    with pytest.raises(EngineUnavailable, match="does not answer"):
        await control.find_run(RUN_KEY, "r1")
    control.close()


def test_the_same_files_give_the_same_bundle() -> None:
    assert build_bundle(DIGITS) == build_bundle(DIGITS)


def test_an_app_declares_what_may_be_configured() -> None:
    assert app_config(DIGITS) == {"aegis-run": "", "seed": 0, "learning-rate": 0.1, "local-epochs": 2}


def test_a_folder_that_is_no_app_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is not a Flower app"):
        app_config(tmp_path)
    with pytest.raises(ConfigurationError, match="is not a Flower app"):
        build_bundle(tmp_path)
