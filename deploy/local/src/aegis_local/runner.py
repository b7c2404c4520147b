"""Brings a whole stack up, keeps its certificates and token fresh, writes its status, and takes it down."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from aegis_common.files import write_atomic
from aegis_common.redis_binary import find_redis_server
from aegis_local import watches
from aegis_local.credentials import Credentials
from aegis_local.issuer import DevIssuer
from aegis_local.ports import DEFAULT_BASE, allot
from aegis_local.profiles import write_stack_profiles
from aegis_local.stack.layout import Layout
from aegis_local.stack.units import stack_units
from aegis_local.state import DEFAULT_DIR, StateDir
from aegis_local.supervisor.supervisor import Supervisor
from aegis_local.system import check_platform, check_programs

_TOKEN_EVERY_S: Final = 1200.0  # a third of its life

Echo = Callable[[str, str], None]
"""Takes the name of a process and one line of its output."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to run a stack.

    Attributes:
        state_dir: Folder of everything it keeps.
        port_base: First port; 0 picks free ones.
        nodes: Training nodes, 0 or more.
        agents: Replicas of the agent, from 1.
        echo: Gets the children's output, or None.
    """

    state_dir: Path = DEFAULT_DIR
    port_base: int = DEFAULT_BASE
    nodes: int = 0
    agents: int = 1
    echo: Echo | None = None


@dataclass(frozen=True, slots=True)
class Stack:
    """A stack that answers."""

    layout: Layout
    supervisor: Supervisor
    issuer: DevIssuer


@asynccontextmanager
async def running_stack(
    options: Options,
    *,
    progress: Callable[[str], None] = lambda _: None,
    welcome: Callable[[Layout], None] = lambda _: None,
) -> AsyncIterator[Stack]:
    """Start a stack and stop it on the way out; nothing of it runs after that, however the block ends.

    Args:
        options: What to start.
        progress: Gets a line for each process that has become ready.
        welcome: Called when everything answers, before the status says `ready`: who waits for that status
            finds what this has printed.

    Raises:
        AegisError: It cannot start here; the message says why and what to do.
    """
    check_platform()
    check_programs()
    redis_server = find_redis_server()
    state = StateDir.at(options.state_dir)
    with state.held():
        watches.check(options.nodes)
        state.prepare()
        ports = allot(options.port_base, options.nodes, options.agents)
        credentials = Credentials(state, nodes=options.nodes)
        credentials.create()
        issuer = DevIssuer.create(state.issuer)
        layout = Layout(state, credentials, ports, options.nodes, redis_server, options.agents)
        board = _StatusBoard(layout, progress)
        supervisor = Supervisor(
            stack_units(layout),
            stack=state.stack,
            logs=state.logs,
            echo=options.echo,
            changed=lambda: board.update(supervisor),
            remove_on_death=[state.sockets, state.run, state.profiles],
        )
        async with supervisor, _background(credentials, issuer, layout):
            await supervisor.start()
            write_stack_profiles(layout)
            welcome(layout)
            board.phase = "ready"
            board.update(supervisor)
            try:
                yield Stack(layout, supervisor, issuer)
            finally:
                board.phase = "stopping"
                board.update(supervisor)


class _StatusBoard:
    """Keeps `status.json` true and tells of each process that has become ready."""

    def __init__(self, layout: Layout, progress: Callable[[str], None]) -> None:
        self.phase = "starting"
        self._layout = layout
        self._progress = progress
        self._started = datetime.now(UTC)
        self._told: set[str] = set()

    def update(self, supervisor: Supervisor) -> None:
        layout = self._layout
        processes = [
            {
                "name": child.spec.name,
                "state": str(child.state),
                "pid": child.pid,
                "restarts": child.restarts,
                "url": child.spec.url,
            }
            for child in supervisor.children.values()
        ]
        layout.state.write_status(
            {
                "phase": self.phase,
                "state_dir": str(layout.state.root),
                "started": self._started.isoformat(timespec="seconds"),
                "ports": dict(layout.ports),
                "nodes": layout.nodes,
                "agents": layout.agents,
                "processes": processes,
            }
        )
        for process in processes:
            name = str(process["name"])
            if self.phase == "starting" and process["state"] == "ready" and name not in self._told:
                self._told.add(name)
                seconds = (datetime.now(UTC) - self._started).total_seconds()
                self._progress(f"{name} is ready ({seconds:.1f} s)")


@asynccontextmanager
async def _background(credentials: Credentials, issuer: DevIssuer, layout: Layout) -> AsyncIterator[None]:
    tasks = [
        asyncio.create_task(credentials.keep_renewing()),
        asyncio.create_task(_keep_token(issuer, layout.token_file)),
    ]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def _keep_token(issuer: DevIssuer, path: Path) -> None:
    """Keep a fresh token of the user `developer` for the profile `people`."""
    while True:
        token = issuer.mint(roles=["operator", "trainer"], subject="developer")
        write_atomic(path, token.encode())
        await asyncio.sleep(_TOKEN_EVERY_S)
