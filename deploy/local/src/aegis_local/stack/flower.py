"""Flower's processes: SuperLink behind an Envoy, and at each site a SuperNode behind another."""

from __future__ import annotations

from aegis_common.pki import server_dns
from aegis_fl_coordinator.flower import (
    SERVERAPP_READ_VARIABLE,
    Identity,
    envoy_command,
    superlink_command,
    superlink_environment,
    supernode_command,
    supernode_environment,
    write_edge_config,
    write_site_config,
)
from aegis_local.credentials import NAMESPACE, SUPERLINK, site, spiffe_id
from aegis_local.environment import base_environment, overrides
from aegis_local.nodes import node_online, register_nodes
from aegis_local.stack.layout import Layout
from aegis_local.stack.services import coordinator_data
from aegis_local.supervisor.probes import https_ok
from aegis_local.supervisor.spec import ProcessSpec, Step, Unit

_FORBIDDEN = 403  # what both Envoys answer outside the Fleet API
_DRAIN_S = 4  # SuperLink waits for its connections for longer, and keeps nothing that SQLite has not
_NODE_READY_S = 90


def superlink_unit(layout: Layout) -> ProcessSpec:
    own = layout.pair(SUPERLINK)
    folder = layout.data("superlink")
    port = layout.ports["superlink"]
    return ProcessSpec(
        name="superlink",
        argv=superlink_command(
            port=port,
            database=folder / "superlink.db",
            cert=own.cert,
            key=own.key,
            ca=layout.credentials.bundle,
        ),
        env={
            **superlink_environment(home=folder, serverapp_dir=coordinator_data(layout) / "runs"),
            # The user says what else apps may read.
            **overrides(SERVERAPP_READ_VARIABLE),
        },
        cwd=folder,
        ready=https_ok(f"https://{layout.address('superlink')}/health", bundle=layout.credentials.bundle),
        drain=_DRAIN_S,
        url=f"https://{layout.address('superlink')}",
    )


def edge_unit(layout: Layout) -> ProcessSpec:
    config = write_edge_config(
        layout.state.run / "fl-edge",
        listen=layout.address("fl_edge"),
        own=_identity(layout, "fl-edge"),
        client_spiffe_id=spiffe_id("gateway"),
        superlink_port=layout.ports["superlink"],
        superlink_ca=layout.credentials.bundle,
        superlink_spiffe_id=spiffe_id(SUPERLINK),
    )
    gateway = layout.pair("gateway")
    return ProcessSpec(
        name="fl-edge",
        argv=envoy_command(config),
        env=base_environment(),
        depends_on=["superlink"],
        ready=https_ok(
            f"https://{layout.address('fl_edge')}/",
            bundle=layout.credentials.bundle,
            cert=gateway.cert,
            key=gateway.key,
            server_name=server_dns("fl-edge", NAMESPACE),
            expect=_FORBIDDEN,
        ),
        url=f"https://{layout.address('fl_edge')}",
    )


def site_units(layout: Layout) -> list[Unit]:
    """Return the units of all sites, and the step that registers their nodes."""
    if not layout.nodes:
        return []

    async def register() -> None:
        await register_nodes(layout)

    units: list[Unit] = [Step(name="register-nodes", action=register, depends_on=["gateway", "fl-edge"])]
    for number in range(1, layout.nodes + 1):
        units += [_site_envoy(layout, number), _supernode(layout, number)]
    return units


def _site_envoy(layout: Layout, number: int) -> ProcessSpec:
    own = _identity(layout, site(number))
    config = write_site_config(
        layout.state.run / f"site-{number}",
        port=layout.ports[f"site_{number}"],
        loopback_cert=own.cert,
        loopback_key=own.key,
        own=own,
        gateway=layout.address("machines"),
        gateway_name=server_dns("gateway", NAMESPACE),
        gateway_spiffe_id=spiffe_id("gateway"),
    )
    return ProcessSpec(
        name=f"site-{number}-envoy",
        argv=envoy_command(config),
        env=base_environment(),
        depends_on=["gateway"],
        ready=https_ok(
            f"https://{layout.address(f'site_{number}')}/",
            bundle=layout.credentials.bundle,
            expect=_FORBIDDEN,
        ),
    )


def _supernode(layout: Layout, number: int) -> ProcessSpec:
    name = f"site-{number}"
    folder = layout.data(name)
    return ProcessSpec(
        name=name,
        argv=supernode_command(
            superlink_port=layout.ports[f"site_{number}"],
            runtime_port=layout.ports[f"supernode_{number}"],
            ca=layout.credentials.bundle,
            private_key=layout.credentials.node_key(site(number)),
            partition=number - 1,
            partitions=layout.nodes,
        ),
        env=supernode_environment(home=folder),
        cwd=folder,
        depends_on=[f"site-{number}-envoy", "register-nodes"],
        ready=node_online(layout, name),
        ready_timeout=_NODE_READY_S,
        drain=_DRAIN_S,
    )


def _identity(layout: Layout, account: str) -> Identity:
    pair = layout.pair(account)
    return Identity(pair.cert, pair.key, layout.credentials.bundle)
