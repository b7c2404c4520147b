"""FlowerServerWrapper: refuses to start without certificates, and trains behind an Envoy."""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from pathlib import Path

import httpx
import psutil
import pytest

from aegis_common.errors import ConfigurationError
from aegis_common.testing.pki import Mesh
from aegis_common.testing.ports import free_port
from aegis_fl_coordinator import FlowerServerWrapper
from aegis_fl_coordinator.domain.errors import RunFailed
from aegis_fl_coordinator.envoy import Identity
from aegis_fl_coordinator.flower import node_key
from aegis_fl_coordinator.testing.processes import Processes, until
from aegis_fl_coordinator.testing.sites import start_site
from aegis_fl_coordinator.wrapper import ServerFiles


def files(mesh: Mesh, folder: Path) -> ServerFiles:
    mesh.ca.issue("fl-superlink", dns=["localhost"], ips=["127.0.0.1"])
    mesh.ca.issue("fl-edge", dns=["localhost"], ips=["127.0.0.1"])
    (folder / "site-1.pub").write_text(node_key(folder / "site-1.key"))
    return ServerFiles(
        data_dir=folder / "flower",
        edge=Identity(*mesh.ca.leaf("fl-edge"), mesh.ca.bundle),
        superlink=Identity(*mesh.ca.leaf("fl-superlink"), mesh.ca.bundle),
        clients=[mesh.spiffe_id("fl-node-site-1"), mesh.spiffe_id("fl-node-site-2")],
        node_keys={"site-1": folder / "site-1.pub"},
    )


def test_it_is_made_and_asked_without_certificates() -> None:
    server = FlowerServerWrapper()

    assert (server.num_rounds, server.min_clients) == (10, 3)
    assert server.is_available()


def test_it_is_never_started_without_certificates() -> None:
    with pytest.raises(ConfigurationError, match="never started without TLS"):
        FlowerServerWrapper(num_rounds=1, min_clients=1).start("127.0.0.1:8080")


@pytest.mark.parametrize(("rounds", "clients", "name"), [(0, 3, "num_rounds"), (10, -1, "min_clients")])
def test_a_number_below_one_is_refused_by_name(rounds: int, clients: int, name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} is"):
        FlowerServerWrapper(rounds, clients)


def test_an_address_that_is_taken_or_wrong_ends_the_start_and_leaves_no_process(
    mesh: Mesh, tmp_path: Path
) -> None:
    before = set(psutil.Process().children(recursive=True))
    server = FlowerServerWrapper(1, 1, files=files(mesh, tmp_path))

    with pytest.raises(ConfigurationError, match="is not host:port"):
        server.start("nowhere")

    assert set(psutil.Process().children(recursive=True)) == before


async def test_behind_the_address_are_a_handshake_and_the_fleet_path_only(mesh: Mesh, tmp_path: Path) -> None:
    before = set(psutil.Process().children(recursive=True))
    address = f"127.0.0.1:{free_port()}"
    server = FlowerServerWrapper(1, 1, files=files(mesh, tmp_path))
    raised: list[BaseException] = []

    def start() -> None:
        try:
            server.start(address)
        except RunFailed as error:
            raised.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    site = mesh.tls("fl-node-site-1")
    trusted = ssl.create_default_context(cafile=str(mesh.ca.bundle))
    trusted.load_cert_chain(site.cert, site.key)
    anonymous = ssl.create_default_context(cafile=str(mesh.ca.bundle))
    stranger = ssl.create_default_context(cafile=str(mesh.ca.bundle))
    stranger.load_cert_chain(mesh.tls("agent").cert, mesh.tls("agent").key)

    async def status(context: ssl.SSLContext, path: str) -> int:
        async with httpx.AsyncClient(verify=context, trust_env=False) as client:
            return (await client.post(f"https://{address}{path}")).status_code

    async def up() -> bool:
        try:
            return await status(trusted, "/health") == 403
        except httpx.HTTPError:
            return False

    await until(up)
    closed = [
        "/v1/control/list-runs",
        "/v1/runtime/acquire-task",
        "/health",
        "/v1/fleet/../control/list-runs",
        "/v1/fleet/%2e%2e/control/list-runs",
    ]
    answers = [await status(trusted, path) for path in closed]
    fleet = await status(trusted, "/v1/fleet/pull-messages")
    for context in (anonymous, stranger):
        with pytest.raises((httpx.HTTPError, ssl.SSLError)):  # the alert, raw when it comes late
            await status(context, "/v1/fleet/pull-messages")
    available = await asyncio.to_thread(server.is_available)
    await asyncio.to_thread(server.stop)
    await asyncio.to_thread(thread.join, 60)

    assert answers == [403] * len(closed)
    assert fleet not in (403, 404)  # SuperLink's own answer
    assert not available  # no node is online
    assert [type(error) for error in raised] == [RunFailed]
    assert set(psutil.Process().children(recursive=True)) == before


@pytest.mark.long
@pytest.mark.training
@pytest.mark.timeout(200)
def test_it_trains_over_a_site_and_returns_rounds_and_model(
    mesh: Mesh, processes: Processes, tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    port = free_port()
    server = FlowerServerWrapper(2, 1, files=files(mesh, tmp_path))
    edge = threading.Thread(target=lambda: start_when_up(processes, mesh, tmp_path, port))
    edge.start()

    with server:
        result = server.start(f"127.0.0.1:{port}")

    assert [report["number"] for report in result.rounds] == [1, 2]
    assert result.rounds[-1]["metrics"]["accuracy"] > 0.8
    assert result.model is not None
    assert result.model.stat().st_size > 1000


def start_when_up(processes: Processes, mesh: Mesh, folder: Path, port: int) -> None:
    """Start the site once the node is registered: a SuperNode whose key is unknown gives up."""
    runs = folder / "flower" / "runs"
    while not list(runs.glob("*/run.json")):
        time.sleep(0.1)
    start_site(processes, mesh, folder, port, 1, 1)
