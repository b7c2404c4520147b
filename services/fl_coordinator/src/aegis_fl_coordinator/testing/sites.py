"""Sites and the edge as real processes, without a gateway between them."""

from __future__ import annotations

from pathlib import Path

from aegis_common.testing.pki import Mesh
from aegis_common.testing.ports import free_port
from aegis_fl_coordinator.flower import (
    Identity,
    envoy_command,
    supernode_command,
    supernode_environment,
    write_edge_config,
    write_site_config,
)
from aegis_fl_coordinator.testing.processes import Processes


def start_edge(processes: Processes, mesh: Mesh, folder: Path, superlink_port: int, sites: int) -> int:
    """Start the Envoy in front of SuperLink, which lets in *sites* sites directly; return its port."""
    port = free_port()
    own = mesh.tls("fl-edge")
    names = [mesh.spiffe_id(f"fl-node-site-{number}") for number in range(1, sites + 1)]
    config = write_edge_config(
        folder / "edge",
        listen=f"127.0.0.1:{port}",
        own=Identity(own.cert, own.key, own.bundle),
        client_spiffe_id=names[0],
        more_spiffe_ids=names[1:],
        superlink_port=superlink_port,
        superlink_ca=mesh.ca.bundle,
        superlink_spiffe_id=mesh.spiffe_id("fl-superlink"),
    )
    processes.start("edge", envoy_command(config), {})
    return port


def start_site(
    processes: Processes,
    mesh: Mesh,
    folder: Path,
    edge_port: int,
    number: int,
    of: int,
    *,
    policy: Path | None = None,
) -> None:
    """Start SuperNode *number* of *of* and its Envoy; its key is `site-<number>.key`."""
    account = f"fl-node-site-{number}"
    mesh.ca.issue(account, dns=["localhost"], ips=["127.0.0.1"])
    cert, key = mesh.ca.leaf(account)
    port = free_port()
    config = write_site_config(
        folder / f"site-{number}",
        port=port,
        loopback_cert=cert,
        loopback_key=key,
        own=Identity(cert, key, mesh.ca.bundle),
        gateway=f"127.0.0.1:{edge_port}",
        gateway_name="fl-edge.aegis.aegis.internal",
        gateway_spiffe_id=mesh.spiffe_id("fl-edge"),
    )
    processes.start(f"envoy-{number}", envoy_command(config), {})
    command = supernode_command(
        superlink_port=port,
        runtime_port=free_port(),
        ca=mesh.ca.bundle,
        private_key=folder / f"site-{number}.key",
        partition=number - 1,
        partitions=of,
    )
    processes.start(
        f"node-{number}", command, supernode_environment(home=folder / f"home-{number}", policy=policy)
    )
