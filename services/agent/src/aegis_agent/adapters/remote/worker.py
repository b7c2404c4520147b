"""A worker: keeps a session with an agent, and finishes what runs before it ends."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import grpc.aio

from aegis.agent.v1 import worker_service_pb2 as pb
from aegis_agent.adapters.remote import specs
from aegis_agent.adapters.remote.dialer import Dialer
from aegis_agent.adapters.remote.link import Link, LinkBroken
from aegis_agent.domain.registry import Registry
from aegis_common.errors import AegisError, ConfigurationError, ErrorKind
from aegis_common.rpc.errors import details_of, remote_error

_FIRST_PAUSE_S: Final = 0.2
_MAX_PAUSE_S: Final = 15.0
_FOR_EVER: Final = frozenset({"PERMISSION_DENIED", "UNAUTHENTICATED", "INVALID_ARGUMENT", "UNIMPLEMENTED"})

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """Who a worker is.

    Attributes:
        name: For people and logs.
        slots: Most calls at once, of all its tools.
        version: Of its software.
        labels: What is worth knowing of its machine.
    """

    name: str
    slots: int
    version: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


class RemoteWorker:
    """Serves the tools of a registry to an agent elsewhere.

    Args:
        registry: The tools.
        dialer: How the agent is reached.
        options: Who this is.
        tell: Takes a line about what happens, for people.
    """

    def __init__(self, registry: Registry, dialer: Dialer, options: WorkerOptions, tell: Tell) -> None:
        self._registry = registry
        self._dialer = dialer
        self._tell = tell
        self._hello = pb.WorkerHello(
            worker=options.name,
            version=options.version,
            labels=dict(options.labels),
            slots=options.slots,
            tools=[specs.to_message(item.tool.spec) for item in registry.everything()],
        )
        self._serving: dict[asyncio.Task[None], Link] = {}
        self._stop = asyncio.Event()
        self._welcomed = False

    def stop(self) -> None:
        """Take no further calls, finish what runs, and end; the second time, stop what runs too."""
        if self._stop.is_set():
            for task in self._serving:
                task.cancel()
        self._stop.set()

    async def run(self) -> None:
        """Serve until `stop`; a lost agent is dialled again.

        Raises:
            AegisError: At the first time: the agent refuses this worker or takes none of its tools, or a file
                of the certificate cannot be read.
        """
        stopped = asyncio.create_task(self._stop.wait())
        try:
            pause = _FIRST_PAUSE_S
            while not self._stop.is_set():
                link = await self._try_to_open(stopped, pause)
                if link is None:
                    pause = min(pause * 2, _MAX_PAUSE_S)
                    continue
                pause = _FIRST_PAUSE_S
                await self._while_it_takes_calls(link, stopped)
            await self._drain()
        finally:
            stopped.cancel()
            for task in self._serving:
                task.cancel()
            await asyncio.gather(*self._serving, return_exceptions=True)

    async def _try_to_open(self, stopped: asyncio.Task[bool], pause: float) -> Link | None:
        link = Link(self._registry, self._dialer, self._hello)
        opening = asyncio.create_task(link.open())
        await asyncio.wait({opening, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not opening.done():
            opening.cancel()
        try:
            await opening
        except asyncio.CancelledError:
            if self._stop.is_set():
                return None
            raise
        except grpc.aio.AioRpcError as error:
            self._refused(error)
        except ConfigurationError as error:
            if not self._welcomed:
                raise
            self._tell(f"{error.message}; trying again")
        except (AegisError, TimeoutError) as error:
            self._tell(f"the agent does not answer: {str(error) or 'no welcome came'}")
        else:
            self._tell_welcome(link.welcome)
            return link
        await asyncio.wait({stopped}, timeout=pause * random.uniform(0.5, 1.0))  # noqa: S311  # spreads workers
        return None

    def _refused(self, error: grpc.aio.AioRpcError) -> None:
        if error.code().name in _FOR_EVER and not self._welcomed:
            raise remote_error(error)
        self._tell(f"no session with {self._dialer.address}: {details_of(error).message}; trying again")

    def _tell_welcome(self, welcome: pb.WorkerWelcome) -> None:
        for refusal in welcome.refused:
            self._tell(f"refused {refusal.tool}: {refusal.reason}: {refusal.message}")
        if not welcome.tools and not self._welcomed:
            raise NothingTaken(f"{self._dialer.address} takes none of the tools of this worker")
        self._welcomed = True
        self._tell(f"serving {', '.join(welcome.tools)} at {self._dialer.address}, {welcome.credit} at once")

    async def _while_it_takes_calls(self, link: Link, stopped: asyncio.Task[bool]) -> None:
        task = asyncio.create_task(self._serve(link))
        self._serving[task] = link
        task.add_done_callback(self._serving.pop)
        leaving = asyncio.create_task(link.leaving.wait())
        await asyncio.wait({task, leaving, stopped}, return_when=asyncio.FIRST_COMPLETED)
        leaving.cancel()

    async def _serve(self, link: Link) -> None:
        try:
            await link.serve()
        except LinkBroken as error:
            self._tell(f"the session with {self._dialer.address} has ended: {error}")

    async def _drain(self) -> None:
        running = sum(link.running for link in self._serving.values())
        self._tell(f"draining: {running} calls run")
        for link in self._serving.values():
            link.drain()
        await asyncio.gather(*self._serving, return_exceptions=True)
        self._tell("drained")


class NothingTaken(AegisError):
    """The agent takes none of the tools."""

    kind = ErrorKind.PERMISSION_DENIED
    reason = "NO_TOOL_TAKEN"
