"""In a worker: one session with an agent, over one stream or several, one after the other."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any, Final

import grpc.aio

from aegis.agent.v1 import worker_service_pb2 as pb
from aegis_agent.adapters.remote import values
from aegis_agent.adapters.remote.asks import Asks
from aegis_agent.adapters.remote.dialer import Dialer, Line
from aegis_agent.adapters.remote.session import MISSED
from aegis_agent.domain.call import Call, Caller
from aegis_agent.domain.errors import ToolCrashed, ToolFailed, ToolTimeout, UnknownTool
from aegis_agent.domain.registry import EVERYONE, Registry
from aegis_common.errors import AegisError
from aegis_common.rpc.errors import to_status

_HANDOVER_S: Final = 10.0
_WELCOME_S: Final = 15.0
_log: Final = logging.getLogger(__name__)


class LinkBroken(Exception):
    """The stream to the agent has ended, and was not to."""


class Link:
    """A session.

    Args:
        registry: The worker's tools.
        dialer: Opens streams.
        hello: What the worker says of itself.

    Attributes:
        welcome: What the agent said.
        leaving: Set when the agent gives it no more calls: it drains here, and may begin elsewhere.
    """

    def __init__(self, registry: Registry, dialer: Dialer, hello: pb.WorkerHello) -> None:
        self._registry = registry
        self._dialer = dialer
        self._hello = hello
        self._outbox: deque[pb.ConnectRequest] = deque()
        self._wake = asyncio.Event()
        self._calls: dict[str, tuple[asyncio.Task[None], Asks]] = {}
        self._line: Line | None = None
        self._moving: asyncio.Task[None] | None = None
        self._next: Line | None = None
        self._heard = 0.0
        self.welcome = pb.WorkerWelcome()
        self.leaving: Final = asyncio.Event()

    @property
    def running(self) -> int:
        """Calls that run."""
        return len(self._calls)

    async def open(self) -> None:
        """Dial, and wait for the agent's welcome.

        Raises:
            grpc.aio.AioRpcError: The agent cannot be reached, or refuses.
            ConfigurationError: A file cannot be read.
        """
        self._line, self.welcome = await self._dialed(self._hello)

    async def serve(self) -> None:
        """Run what the agent gives, until it has ended the session well.

        Raises:
            LinkBroken: The stream has ended; what ran was stopped.
        """
        line = self._line
        while line is not None:
            try:
                line = await self._serve_line(line)
            except BaseException:
                await self._abandon()
                raise
        await self._abandon()

    def drain(self) -> None:
        """Take no further calls; what runs goes on."""
        if not self.leaving.is_set():
            self.leaving.set()
            self._send(pb.ConnectRequest(drain=pb.WorkerDrain()))

    async def _serve_line(self, line: Line) -> Line | None:
        """Serve one stream; return the one that has taken its place, or None when the session is over."""
        self._heard = _now()
        writer = asyncio.create_task(self._write(line))
        beat = asyncio.create_task(self._beat(line))
        try:
            while True:
                message = await line.read()
                if message is None:
                    break
                self._heard = _now()
                self._take(message)
        except grpc.aio.AioRpcError as error:
            if not line.replaced:
                raise LinkBroken(f"{error.code().name}: {error.details()}") from error
        except asyncio.CancelledError:
            if not (line.replaced or self._silent()):
                raise
            if not line.replaced:
                raise LinkBroken("the agent was silent for too long") from None
        finally:
            for task in (writer, beat):
                task.cancel()
            await asyncio.gather(writer, beat, return_exceptions=True)
            await line.close()
        if line.replaced:
            following, self._next = self._next, None
            self._line = following
            return following
        return None

    async def _write(self, line: Line) -> None:
        while True:
            while self._outbox and not line.replaced:
                await line.write(self._outbox.popleft())
            if line.replaced:
                await line.finish()
                return
            self._wake.clear()
            await self._wake.wait()

    async def _beat(self, line: Line) -> None:
        interval = self.welcome.heartbeat.ToTimedelta().total_seconds()
        while True:
            await asyncio.sleep(interval)
            if self._silent():
                await line.close()
                return
            if not line.replaced:
                self._send(pb.ConnectRequest(heartbeat=pb.WorkerHeartbeat()))

    def _silent(self) -> bool:
        return _now() - self._heard > MISSED * self.welcome.heartbeat.ToTimedelta().total_seconds()

    def _take(self, message: pb.ConnectResponse) -> None:
        kind = message.WhichOneof("message")
        if kind == "call":
            self._start(message.call)
        elif kind == "cancel" and message.cancel.call in self._calls:
            self._calls[message.cancel.call][0].cancel()
        elif kind == "answer" and message.answer.call in self._calls:
            self._calls[message.answer.call][1].answered(message.answer)
        elif kind == "reconnect" and self._moving is None:
            self._moving = asyncio.get_running_loop().create_task(self._move())

    async def _move(self) -> None:
        """Go on over a new stream; where that cannot be, finish on this one and begin anew elsewhere."""
        hello = pb.WorkerHello()
        hello.CopyFrom(self._hello)
        hello.resume = self.welcome.session
        try:
            following, _ = await self._dialed(hello)
        except (grpc.aio.AioRpcError, AegisError, TimeoutError) as error:
            _log.info("the session ends here, another one begins: %s", _told(error))
            self.drain()
            return
        finally:
            self._moving = None
        self._next = following
        if self._line is not None:
            self._line.replaced = True
        self._wake.set()

    async def _dialed(self, hello: pb.WorkerHello) -> tuple[Line, pb.WorkerWelcome]:
        line = self._dialer.open()
        try:
            async with asyncio.timeout(_WELCOME_S):
                await line.write(pb.ConnectRequest(hello=hello))
                message = await line.read()
        except BaseException:
            await line.close()
            raise
        if message is None or not message.HasField("welcome"):
            await line.close()
            raise ToolFailed("the agent did not answer hello with welcome", error="protocol")
        return line, message.welcome

    def _start(self, message: pb.WorkerCall) -> None:
        asks = Asks(
            message.call,
            message.tool,
            self._send,
            window=self.welcome.window,
            max_message_bytes=self.welcome.max_message_bytes,
            max_load_bytes=message.max_load_bytes,
        )
        task = asyncio.get_running_loop().create_task(self._run(message, asks, _now()))
        self._calls[message.call] = (task, asks)

    async def _run(self, message: pb.WorkerCall, asks: Asks, came: float) -> None:
        name = message.call
        try:
            self._send(pb.ConnectRequest(accepted=pb.WorkerAccepted(call=name)))
            answer = await self._outcome(message, asks, came)
        except asyncio.CancelledError:
            error = ToolCrashed(f"tool {message.tool!r} was stopped", tool=message.tool)
            answer = _failure(name, error)
        except AegisError as error:
            answer = _failure(name, error)
        except Exception as error:
            _log.exception("call failed unexpectedly", extra={"tool": message.tool})
            kind = type(error).__name__
            what = f"the worker failed: {kind}; its log has the cause"
            answer = _failure(name, ToolFailed(what, tool=message.tool, error=kind))
        self._calls.pop(name, None)
        self._send(answer)

    async def _outcome(self, message: pb.WorkerCall, asks: Asks, came: float) -> pb.ConnectRequest:
        registration = self._registry.owned(message.tool, owner=EVERYONE)
        if registration is None:
            raise UnknownTool.named(message.tool, [])
        limit = message.time_left.ToTimedelta()
        call = Call(
            arguments=await values.from_message(message.arguments),
            caller=Caller(tenant=message.tenant, subject=message.subject, roles=frozenset(message.roles)),
            deadline=came + limit.total_seconds(),
            attempt=message.attempt,
            job=message.job,
            checkpoint=message.checkpoint if message.HasField("checkpoint") else None,
            sink=asks.sink,
            artifacts=asks if message.artifacts else None,
        )
        with registration.in_use():
            value = await _in_time(registration.tool.runner.run(call), call, message.tool, limit)
        result = pb.WorkerResult(call=message.call)
        if not registration.tool.spec.streams:
            result.value.CopyFrom(asks.value(value))
        return pb.ConnectRequest(result=result)

    async def _abandon(self) -> None:
        """Stop whatever still runs: nobody waits for it."""
        self.leaving.set()
        tasks = [task for task, _ in self._calls.values()]
        if self._moving is not None:
            tasks.append(self._moving)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._next is not None:
            await self._next.close()

    def _send(self, message: pb.ConnectRequest) -> None:
        self._outbox.append(message)
        self._wake.set()


async def _in_time(work: Coroutine[Any, Any, Any], call: Call, tool: str, limit: timedelta) -> Any:
    scope = asyncio.timeout_at(call.deadline)
    try:
        async with scope:
            return await work
    except TimeoutError as error:
        if not scope.expired():
            raise
        raise ToolTimeout.of(tool, limit, running=True) from error


def _failure(call: str, error: AegisError) -> pb.ConnectRequest:
    return pb.ConnectRequest(failure=pb.WorkerFailure(call=call, error=to_status(error)))


def _told(error: Exception) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {error.details()}"
    return str(error) or type(error).__name__


def _now() -> float:
    return asyncio.get_running_loop().time()
