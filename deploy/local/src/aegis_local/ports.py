"""Which port each process gets, and who holds a port that is taken."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator, Mapping
from typing import Final

import psutil

from aegis_common.errors import ConfigurationError
from aegis_local.errors import PortTaken

HOST: Final = "127.0.0.1"
DEFAULT_BASE: Final = 8443
FIXED: Final = (
    "machines",
    "people",
    "gateway_ops",
    "carbon",
    "carbon_ops",
    "agent",
    "agent_ops",
    "fl_coordinator",
    "fl_coordinator_ops",
    "fl_edge",
    "superlink",
    "agent_http",
)
"""Order of the ports above the base."""


def names(nodes: int, agents: int = 1) -> list[str]:
    """Return the names of all ports of a stack with so many nodes and agents."""
    sites = [f"{part}_{number}" for number in range(1, nodes + 1) for part in ("site", "supernode")]
    others = [f"agent_{number}{part}" for number in range(2, agents + 1) for part in ("", "_ops", "_http")]
    return [*FIXED, *sites, *others]


def allot(base: int, nodes: int, agents: int = 1) -> dict[str, int]:
    """Return name to port: *base* and up, or free ports when *base* is 0.

    Raises:
        PortTaken: Names the first port that another process holds, and that process where /proc tells.
        ConfigurationError: The range does not lie within 1024 to 65535.
    """
    wanted = names(nodes, agents)
    if base == 0:
        return _free(wanted)
    if base < 1024 or base + len(wanted) - 1 > 65535:
        raise ConfigurationError(
            f"port base {base} does not fit: {len(wanted)} ports from it must lie in 1024 to 65535",
            port_base=str(base),
        )
    ports = {name: base + offset for offset, name in enumerate(wanted)}
    check_free(ports)
    return ports


def check_free(ports: Mapping[str, int]) -> None:
    """Check that each port can be bound on loopback.

    Raises:
        PortTaken: One cannot.
    """
    for name, port in ports.items():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError as error:
                raise _taken(name, port) from error


def holder(port: int) -> str:
    """Return the process that listens on *port*, such as `nginx (pid 7)`, or an empty string."""
    with contextlib.suppress(psutil.Error, OSError):
        for entry in psutil.net_connections("tcp"):
            if entry.status == psutil.CONN_LISTEN and entry.laddr and entry.laddr.port == port and entry.pid:
                return f"{psutil.Process(entry.pid).name()} (pid {entry.pid})"
    return ""


def _taken(name: str, port: int) -> PortTaken:
    who = holder(port) or "another process"
    return PortTaken(
        f"port {port} for {name} is taken by {who}; stop it, or move this stack with --port-base N "
        "(0 picks free ports)",
        port=str(port),
        name=name,
    )


def _free(wanted: list[str]) -> dict[str, int]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(taken) for taken in _bound(len(wanted))]
        return {name: taken.getsockname()[1] for name, taken in zip(wanted, sockets, strict=True)}


def _bound(count: int) -> Iterator[socket.socket]:
    for _ in range(count):
        taken = socket.socket()
        taken.bind((HOST, 0))
        yield taken
