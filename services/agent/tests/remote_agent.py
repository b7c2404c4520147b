"""An agent that takes workers over mutual TLS, and workers in this process, for tests of remote workers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from aegis.agent.v1 import worker_service_pb2_grpc as pb_grpc
from aegis_agent import AgentManager
from aegis_agent.adapters.remote.dialer import Dialer
from aegis_agent.adapters.remote.fleet import Fleet
from aegis_agent.adapters.remote.policy import WorkerPolicy
from aegis_agent.adapters.remote.servicer import STREAM_LIFE, WorkerServicer
from aegis_agent.adapters.remote.worker import RemoteWorker, WorkerOptions
from aegis_agent.context import AsyncContext
from aegis_agent.domain.registry import EVERYONE
from aegis_common.rpc.server import serving
from aegis_common.settings import ServiceSettings
from aegis_common.testing.pki import Mesh
from aegis_common.testing.waiting import until

GUARD_S = 60.0
HEARTBEAT = timedelta(seconds=0.3)


class Seen:
    """What the tools did since the test began."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.begun = 0
        self.running = 0
        self.most = 0
        self.stopped = 0
        self.yielded = 0
        self.attempts = list[int]()
        self.go = asyncio.Event()


seen = Seen()


async def add(a: int, b: int) -> int:
    return a + b


async def mirror(data: bytes, context: AsyncContext) -> dict[str, Any]:
    return {"data": data, "tenant": context.tenant, "big": 2**60}


async def wait(context: AsyncContext) -> str:
    """Waits until it is told to go on."""
    seen.begun += 1
    seen.running += 1
    seen.most = max(seen.most, seen.running)
    seen.attempts.append(context.attempt)
    try:
        await seen.go.wait()
    except asyncio.CancelledError:
        seen.stopped += 1
        raise
    finally:
        seen.running -= 1
    return "done"


async def numbers(to: int, context: AsyncContext) -> AsyncIterator[int]:
    for number in range(to):
        await context.progress(number, to)
        seen.yielded += 1
        yield number


async def fail() -> str:
    raise ValueError("no")


class Agent:
    """An agent that takes workers."""

    def __init__(self, manager: AgentManager, fleet: Fleet, mesh: Mesh, port: int, policy: Path) -> None:
        self.manager, self.fleet, self.mesh, self.port, self.policy = manager, fleet, mesh, port, policy

    def allow(self, entries: dict[str, dict[str, Any]]) -> None:
        workers = {self.mesh.spiffe_id(account): entry for account, entry in entries.items()}
        self.policy.write_text(json.dumps({"schema_version": 1, "workers": workers}))

    def dialer(self, account: str = "tool-worker") -> Dialer:
        tls = self.mesh.tls(account)
        return Dialer(
            address=f"127.0.0.1:{self.port}",
            cert=tls.cert,
            key=tls.key,
            ca=tls.bundle,
            server_name="agent.aegis.aegis.internal",
        )

    def has(self, tool: str, owner: str = EVERYONE) -> bool:
        return self.manager.registry.owned(tool, owner=owner) is not None

    async def call(self, tool: str, payload: dict[str, Any] | None = None, *, tenant: str = "default") -> Any:
        async with asyncio.timeout(GUARD_S):
            return await self.manager.dispatch(tool, payload or {}, tenant=tenant)


def worker_mesh(folder: Path) -> Mesh:
    """Certificates of an agent and of two workers that have the role."""
    made = Mesh(folder)
    entry = {"tenant": "default", "roles": ["worker"], "via_gateway": True}
    made.write_identities({made.spiffe_id(name): entry for name in ("tool-worker", "tool-worker-2")})
    return made


@asynccontextmanager
async def agent_of(mesh: Mesh, folder: Path, *, life: timedelta = STREAM_LIFE) -> AsyncIterator[Agent]:
    settings = ServiceSettings(**mesh.service_kwargs("agent"), drain=timedelta(seconds=1))
    policy = folder / "policy.json"
    policy.write_text('{"schema_version": 1, "workers": {}}')
    async with AgentManager() as manager:
        fleet = Fleet(manager.registry, heartbeat=HEARTBEAT)
        servicer = WorkerServicer(
            fleet,
            WorkerPolicy(policy),
            max_message_bytes=settings.max_message_bytes,
            stream_life=life,
            within=timedelta(seconds=20),
        )
        add_it = [(pb_grpc.add_WorkerServiceServicer_to_server, servicer)]
        async with serving(settings, name="agent", add=add_it) as server:
            agent = Agent(manager, fleet, mesh, server.port, policy)
            yield agent
            servicer.begin_drain()


async def without_workers(agent: Agent) -> Agent:
    """An agent without workers and tools, that lets `tool-worker` bring whatever it likes."""
    await until(lambda: not agent.fleet.workers)
    for registration in agent.manager.registry.everything():
        await agent.manager.remove_tool(registration.tool.spec.name)
    agent.allow({"tool-worker": {"tenant": "*", "tools": ["*"]}})
    return agent


class Running:
    """A worker in this process."""

    def __init__(self, worker: RemoteWorker, task: asyncio.Task[None], told: list[str]) -> None:
        self.worker, self.task, self.told = worker, task, told

    async def lose(self) -> None:
        """End it as a crash does: without a word."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


StartWorker = Callable[..., Awaitable[Running]]


@asynccontextmanager
async def workers() -> AsyncIterator[StartWorker]:
    """Starts workers, and ends them afterwards."""
    stack: list[tuple[Running, AgentManager]] = []

    async def begin(
        agent: Agent, *functions: Any, slots: int = 4, account: str = "tool-worker", **options: Any
    ) -> Running:
        manager, told = AgentManager(), list[str]()
        for function in functions:
            manager.register_tool(function.__name__, function, **options)
        worker = RemoteWorker(
            manager.registry,
            agent.dialer(account),
            WorkerOptions(name=f"w{len(stack)}", slots=slots),
            told.append,
        )
        running = Running(worker, asyncio.create_task(worker.run()), told)
        stack.append((running, manager))
        await until(lambda: running.task.done() or any(line.startswith("serving") for line in told))
        return running

    yield begin
    for running, manager in stack:
        await running.lose()
        await manager.close()
