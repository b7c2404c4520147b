"""A worker's session: its calls, over one stream or several, one after the other."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any, Final, Protocol

from aegis.agent.v1 import worker_service_pb2 as pb
from aegis_agent.adapters.remote import values
from aegis_agent.adapters.remote.errors import WorkerLost, WorkerProtocol
from aegis_agent.adapters.remote.remote_call import RemoteCall
from aegis_agent.domain.call import Call, LogLine, Progress
from aegis_agent.domain.errors import InvalidToolInput, Violation

MISSED: Final = 3
_STOP_S: Final = 1.0
_HANDOVER_S: Final = 10.0
_MIN_LEFT_S: Final = 0.001
_SOON: Final = timedelta(seconds=10)
_log: Final = logging.getLogger(__name__)

Write = Callable[[pb.ConnectResponse], Awaitable[None]]


class Session(Protocol):
    """Where calls of some tools can run: a worker that is here, or another replica.

    Attributes:
        name: For people.
        owner: Tenant whose tools they are, or everyone.
        local: A worker of this replica.
        credit: Most calls at once.
        concurrency: Most calls at once of each tool.
    """

    name: str
    owner: str
    local: bool
    credit: int
    concurrency: Mapping[str, int]

    def free(self, tool: str) -> int:
        """Return how many more calls of *tool* it takes now."""
        ...

    def reserve(self, tool: str) -> None:
        """Take credit for a call that `run` gets next."""
        ...

    async def run(self, tool: str, call: Call) -> Any:
        """Run a call there, for which credit was reserved, and return its result.

        Raises:
            Unfinished: What would have run it has gone.
            AegisError: What the tool reports.
        """
        ...


class Stream:
    """One stream of a session.

    Attributes:
        replaced: Another one has taken its place; nothing more is written to it.
    """

    def __init__(self) -> None:
        self.replaced = False
        self.written: Final = asyncio.Event()
        self.read: Final = asyncio.Event()


class WorkerSession:
    """A worker that is here.

    Args:
        name: Of the worker, for people.
        peer: SPIFFE id that it came with.
        owner: Tenant whose tools it brings, or everyone.
        credit: Most calls at once.
        heartbeat: Time between two signs of life.
        changed: Called when it may have become free, or takes no more calls.

    Attributes:
        id: Names the session; a secret.
        concurrency: Most calls at once of each tool that was taken.
        taking: False when it gets no further calls.
        gone: It has left or is lost.
    """

    def __init__(
        self,
        name: str,
        *,
        peer: str,
        owner: str,
        credit: int,
        heartbeat: timedelta,
        changed: Callable[[WorkerSession], None],
    ) -> None:
        self.id: Final = secrets.token_urlsafe(24)
        self.name = name
        self.peer: Final = peer
        self.owner = owner
        self.local = True
        self.credit = credit
        self.concurrency: Mapping[str, int] = {}
        self.taking = True
        self.gone = False
        self._heartbeat_s = heartbeat.total_seconds()
        self._changed = changed
        self._reserved: Counter[str] = Counter()
        self._calls: dict[str, RemoteCall] = {}
        self._numbers = 0
        self._outbox: deque[pb.ConnectResponse] = deque()
        self._wake = asyncio.Event()
        self._stream: Stream | None = None
        self._heard = 0.0

    @property
    def busy(self) -> int:
        """Calls that it has."""
        return self._reserved.total()

    def free(self, tool: str) -> int:
        """Return how many more calls of *tool* it takes now."""
        if not self.taking or self.gone:
            return 0
        return min(self.credit - self.busy, self.concurrency.get(tool, 0) - self._reserved[tool])

    def reserve(self, tool: str) -> None:
        """Take credit for a call that `run` gets next."""
        self._reserved[tool] += 1

    async def run(self, tool: str, call: Call) -> Any:
        """Run a call there, for which credit was reserved, and return its result.

        When it is cancelled, or fails, the worker is told to stop, and given a second to say that it has.

        Raises:
            Unfinished: The worker has gone.
            AegisError: What the worker reports.
        """
        remote = RemoteCall(self._next_name(), tool, call)
        try:
            message = call_message(remote.name, tool, call)
        except values.ValueFault as error:
            self._release(tool)
            raise InvalidToolInput.of(tool, [Violation("", "json", str(error))]) from error
        if self.gone:
            self._release(tool)
            raise Unfinished(sent=False, given=0)
        self._calls[remote.name] = remote
        self._send(pb.ConnectResponse(call=message))
        try:
            return await remote.outcome(lambda answer: self._send(pb.ConnectResponse(answer=answer)))
        except WorkerLost as error:
            raise Unfinished(sent=remote.sent, given=remote.given) from error
        except BaseException:
            await self._stop(remote)
            raise

    async def serve(
        self,
        stream: Stream,
        requests: AsyncIterator[pb.ConnectRequest],
        write: Write,
        welcome: pb.ConnectResponse,
        *,
        life: timedelta,
        within: timedelta,
    ) -> None:
        """Serve one stream, until another one takes its place, or the worker leaves.

        Raises:
            WorkerLost: It was silent, or has not opened another stream in time.
            WorkerProtocol: It sent what must not come.
        """
        before, self._stream = self._stream, stream
        try:
            async with asyncio.timeout(_HANDOVER_S):
                await self._hand_over(before, write, welcome)
        except TimeoutError as error:
            raise WorkerProtocol("the worker has not closed its old stream", worker=self.name) from error
        self._heard = _now()
        tasks = [
            asyncio.create_task(work)
            for work in (
                self._read(stream, requests),
                self._write(stream, write),
                self._watch(stream, life=life, within=within),
            )
        ]
        try:
            await _first(tasks, unless=lambda: stream.replaced and not self.gone)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            stream.written.set()
            stream.read.set()

    def send_away(self, within: timedelta = _SOON) -> None:
        """Ask the worker to open another stream, here or at another replica."""
        message = pb.ConnectResponse(reconnect=pb.WorkerReconnect())
        message.reconnect.within.FromTimedelta(within)
        self._send(message)

    def lose(self) -> None:
        """The worker has gone: every call ends."""
        self.gone = True
        self.taking = False
        for remote in tuple(self._calls.values()):
            self._end(remote, WorkerLost(f"worker {self.name!r} was lost while it ran the call"))

    async def _hand_over(self, before: Stream | None, write: Write, welcome: pb.ConnectResponse) -> None:
        if before is not None:
            before.replaced = True
            self._wake.set()
            await before.written.wait()
        await write(welcome)
        if before is not None:
            await before.read.wait()

    async def _read(self, stream: Stream, requests: AsyncIterator[pb.ConnectRequest]) -> None:
        async for request in requests:
            self._heard = _now()
            self._take(request)
        stream.read.set()
        if not stream.replaced and (self._calls or self.taking):
            raise WorkerLost(f"worker {self.name!r} has closed its stream", worker=self.name)

    async def _write(self, stream: Stream, write: Write) -> None:
        try:
            while True:
                while self._outbox and not stream.replaced:
                    message = self._outbox.popleft()
                    if message.HasField("call") and message.call.call in self._calls:
                        self._calls[message.call.call].sent = True
                    await write(message)
                if stream.replaced or self._finished():
                    return
                self._wake.clear()
                await self._wake.wait()
        finally:
            stream.written.set()

    async def _watch(self, stream: Stream, *, life: timedelta, within: timedelta) -> None:
        begin, asked = _now(), False
        while not self.gone:
            await asyncio.sleep(self._heartbeat_s / 2)
            if stream.replaced:
                continue
            now = _now()
            if now - self._heard > MISSED * self._heartbeat_s:
                raise WorkerLost(f"worker {self.name!r} was silent for too long", worker=self.name)
            if not asked and now - begin > life.total_seconds():
                asked = True
                self.send_away(within)
            if asked and now - begin > (life + within).total_seconds():
                raise WorkerLost(f"worker {self.name!r} has not opened another stream", worker=self.name)

    def _finished(self) -> bool:
        return not self.taking and not self._calls

    def _take(self, request: pb.ConnectRequest) -> None:
        kind = request.WhichOneof("message")
        if kind == "heartbeat":
            self._send(pb.ConnectResponse(heartbeat=pb.WorkerHeartbeat()))
        elif kind == "drain":
            self.taking = False
            self._changed(self)
            self._wake.set()
        elif kind in ("accepted", "progress", "log", "ask", "result", "failure"):
            message = getattr(request, kind)
            remote = self._calls.get(message.call)
            if remote is not None and not remote.ended.is_set():
                self._take_of(remote, kind, message)
        else:
            raise WorkerProtocol(f"message {kind or 'without content'!r} must not come here")

    def _take_of(self, remote: RemoteCall, kind: str, message: Any) -> None:
        if kind == "progress":
            total = message.total if message.HasField("total") else None
            remote.tell(Progress(done=message.done, total=total, message=message.message))
        elif kind == "log":
            remote.tell(LogLine(level=message.level, message=message.message))
        elif kind == "ask":
            remote.ask(message)
        elif kind in ("result", "failure"):
            self._end(remote, message)

    def _end(self, remote: RemoteCall, how: Any) -> None:
        if self._calls.pop(remote.name, None) is not None:
            remote.end(how)
            self._release(remote.tool)
            self._wake.set()

    def _release(self, tool: str) -> None:
        self._reserved[tool] -= 1
        self._changed(self)

    async def _stop(self, remote: RemoteCall) -> None:
        if remote.ended.is_set():
            return
        self._send(pb.ConnectResponse(cancel=pb.WorkerCancel(call=remote.name)))
        try:
            async with asyncio.timeout(_STOP_S):
                await remote.ended.wait()
        except TimeoutError:
            _log.warning("worker does not say that a call has stopped", extra={"worker": self.name})

    def _send(self, message: pb.ConnectResponse) -> None:
        if not self.gone:
            self._outbox.append(message)
            self._wake.set()

    def _next_name(self) -> str:
        self._numbers += 1
        return str(self._numbers)


class Unfinished(Exception):
    """A call's worker has gone.

    Attributes:
        sent: The work may have begun.
        given: Items of its result that were passed on.
    """

    def __init__(self, *, sent: bool, given: int) -> None:
        super().__init__("unfinished")
        self.sent = sent
        self.given = given


async def _first(tasks: list[asyncio.Task[None]], *, unless: Callable[[], bool]) -> None:
    """Return, or raise, as the first task does that ends; a replaced stream still reads what comes."""
    pending = set(tasks)
    while pending:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        if not unless():
            return
        if tasks[0] in done:
            return


def call_message(name: str, tool: str, call: Call) -> pb.WorkerCall:
    """Return a call as it is sent.

    Raises:
        ValueFault: The arguments have no JSON form.
    """
    message = pb.WorkerCall(
        call=name,
        tool=tool,
        arguments=values.to_message(call.arguments),
        tenant=call.caller.tenant,
        subject=call.caller.subject,
        roles=sorted(call.caller.roles),
        attempt=call.attempt,
        job=call.job,
        checkpoint=call.checkpoint,
        artifacts=call.artifacts is not None,
        max_load_bytes=call.artifacts.max_load_bytes if call.artifacts else 0,
    )
    message.time_left.FromTimedelta(timedelta(seconds=max(_MIN_LEFT_S, call.deadline - _now())))
    return message


def _now() -> float:
    return asyncio.get_running_loop().time()
