"""Other replicas: what workers they have, and how a call gets there."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import secrets
from collections import Counter
from collections.abc import Mapping
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any, Final, Self

import grpc.aio
import redis.asyncio
from google.protobuf.message import DecodeError
from redis.exceptions import RedisError

from aegis.agent.v1 import worker_service_pb2 as pb
from aegis.agent.v1 import worker_service_pb2_grpc as pb_grpc
from aegis_agent.adapters.remote import specs, values
from aegis_agent.adapters.remote.errors import NoWorker, WorkerLost, told_by_worker
from aegis_agent.adapters.remote.fleet import Fleet
from aegis_agent.adapters.remote.session import Unfinished, call_message
from aegis_agent.adapters.replicas.living import LIFE, Living
from aegis_agent.domain.call import Call, Checkpoint, Chunk, LogLine, Progress
from aegis_agent.domain.errors import InvalidToolInput, InvalidToolOutput, Violation
from aegis_agent.domain.tool import ToolSpec
from aegis_common.auth.principal import Principal
from aegis_common.background import Every
from aegis_common.errors import AegisError
from aegis_common.rpc.channel import MeshChannel, mesh_channel
from aegis_common.rpc.errors import details_of, from_status, remote_error
from aegis_common.rpc.outgoing import acting_for
from aegis_common.settings import TlsSettings

SCHEMA_VERSION: Final = 1
INDEX: Final = "agent:replicas"
PREFIX: Final = "agent:replica:"
_CREDIT: Final = 1024
_CONNECT_S: Final = 2.0
_LOOK: Final = timedelta(seconds=1)
_GONE: Final = frozenset({NoWorker.reason, "UNAVAILABLE", "CANCELLED"})
_log: Final = logging.getLogger(__name__)


class PeerSession:
    """The workers of one owner at another replica.

    Attributes:
        offered: Tool to its description and digest there.
    """

    def __init__(self, name: str, owner: str, channel: MeshChannel) -> None:
        self.name = name
        self.owner = owner
        self.local = False
        self.credit = _CREDIT
        self.concurrency: Mapping[str, int] = {}
        self.offered: dict[str, tuple[ToolSpec, str]] = {}
        self._channel = channel
        self._stub: pb_grpc.WorkerServiceAsyncStub = pb_grpc.WorkerServiceStub(channel)
        self._reserved: Counter[str] = Counter()
        self._stale: set[str] = set()

    def refresh(self, concurrency: Mapping[str, int]) -> None:
        """Take what the replica says of itself now."""
        self.concurrency = concurrency
        self._stale.clear()

    def free(self, tool: str) -> int:
        """Return how many more calls of *tool* it takes; its own callers may be quicker."""
        if tool in self._stale:
            return 0
        return self.concurrency.get(tool, 0) - self._reserved[tool]

    def reserve(self, tool: str) -> None:
        self._reserved[tool] += 1

    async def run(self, tool: str, call: Call) -> Any:
        """Run a call there; see `Session`."""
        try:
            return await self._run(tool, call)
        finally:
            self._reserved[tool] -= 1

    async def _run(self, tool: str, call: Call) -> Any:
        reader = _Reader(tool, call)
        await self._connected(tool)
        left = call.deadline - asyncio.get_running_loop().time()
        caller = call.caller
        principal = Principal("", caller.subject or "agent", caller.tenant, caller.roles)
        with acting_for(principal):
            stream = self._stub.Forward(self._request(tool, call), timeout=max(0.001, left))
        try:
            async for event in stream:
                if await reader.take(event):
                    return reader.value
        except grpc.aio.AioRpcError as error:
            found = details_of(error)
            if found.reason not in _GONE:
                raise remote_error(error) from error
            self._stale.add(tool)
            raise Unfinished(sent=found.reason != NoWorker.reason, given=reader.given) from error
        finally:
            stream.cancel()
        raise Unfinished(sent=True, given=reader.given)

    async def _connected(self, tool: str) -> None:
        """Connect before a call is sent: only so is one that never left told from one whose replica died.

        Raises:
            Unfinished: The replica cannot be reached; nothing was sent.
        """
        try:
            async with asyncio.timeout(_CONNECT_S):
                reached = await _reached(self._channel)
        except TimeoutError:
            reached = False
        if not reached:
            self._stale.add(tool)
            raise Unfinished(sent=False, given=0)

    def _request(self, tool: str, call: Call) -> pb.ForwardRequest:
        try:
            message = call_message("forwarded", tool, call)
        except values.ValueFault as error:
            raise InvalidToolInput.of(tool, [Violation("", "json", str(error))]) from error
        return pb.ForwardRequest(owner=self.owner, digest=self.offered[tool][1], call=message)


class _Reader:
    """Reads the events of one call."""

    def __init__(self, tool: str, call: Call) -> None:
        self._tool = tool
        self._call = call
        self.given = 0
        self.value: Any = None

    async def take(self, event: pb.ForwardResponse) -> bool:
        """Pass an event on; return whether it was the result."""
        kind = event.WhichOneof("event")
        sink = self._call.sink
        if kind == "progress":
            said = event.progress
            total = said.total if said.HasField("total") else None
            await sink(Progress(done=said.done, total=total, message=said.message))
        elif kind == "log":
            await sink(LogLine(level=event.log.level, message=event.log.message))
        elif kind == "checkpoint":
            await sink(Checkpoint(event.checkpoint))
        elif kind == "chunk":
            await sink(Chunk(await self._read(event.chunk)))
            self.given += 1
        elif kind == "failure":
            raise self._failure(event.failure)
        elif kind == "result":
            self.value = await self._read(event.result.value) if event.result.HasField("value") else None
            return True
        return False

    def _failure(self, failure: pb.WorkerFailure) -> Exception:
        reason = from_status(failure.error).reason
        if reason in (WorkerLost.reason, NoWorker.reason):
            return Unfinished(sent=reason == WorkerLost.reason, given=self.given)
        return told_by_worker(self._tool, failure.error)

    async def _read(self, message: pb.WorkerValue) -> Any:
        try:
            return await values.from_message(message)
        except values.ValueFault as error:
            raise InvalidToolOutput.of(self._tool, Violation("", "json", str(error))) from error


class Peers:
    """Tells other replicas which workers this one has, and learns of theirs; `async with`, then `close`.

    What a replica says of itself lies in Redis for 5 s at a time.

    Args:
        fleet: The workers.
        client: Redis; it is closed with this.
        advertise: `host:port` where other replicas reach this one.
        tls: Certificates of the mesh.
        look: Pause between two looks.
    """

    def __init__(
        self,
        fleet: Fleet,
        client: redis.asyncio.Redis,
        *,
        advertise: str,
        tls: TlsSettings,
        look: timedelta = _LOOK,
    ) -> None:
        self._fleet = fleet
        self._client = client
        self._advertise = advertise
        self._tls = tls
        self._living = Living(client, index=INDEX, prefix=PREFIX, own=secrets.token_hex(8))
        self._channels: dict[str, MeshChannel] = {}
        self._sessions: dict[tuple[str, str], PeerSession] = {}
        self._every = Every(look, self.look, name="replicas")
        self._stack = AsyncExitStack()
        self._away = False

    async def __aenter__(self) -> Self:
        await self.look()
        await self._stack.enter_async_context(self._every)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()
        try:
            await self._living.leave()
        except (RedisError, OSError):
            _log.info("redis is away; what this replica said of itself ends in %g s", LIFE.total_seconds())

    async def close(self) -> None:
        """End the calls that still run at other replicas, and every connection."""
        await asyncio.gather(*(channel.close() for channel in self._channels.values()))
        await self._client.aclose()

    async def look(self) -> None:
        """Tell, and learn."""
        try:
            found = await self._exchange()
        except (RedisError, OSError, TimeoutError) as error:
            if not self._away:
                _log.warning("redis is away: workers of other replicas may be missed: %s", error)
            self._away = True
            return
        self._away = False
        present = set()
        for replica, text in found.items():
            try:
                present |= self._learn(replica, json.loads(text))
            except (ValueError, KeyError, TypeError, DecodeError, AttributeError) as error:
                _log.error("what replica %s says cannot be read: %s", replica, error)
        self._forget(present)

    async def _exchange(self) -> dict[str, str]:
        await self._living.tell(self._record())
        return await self._living.others()

    def _record(self) -> str:
        tools = [
            {
                "owner": group.owner,
                "digest": group.digest,
                "capacity": group.capacity_here,
                "tool": base64.b64encode(specs.to_message(group.spec).SerializeToString()).decode(),
            }
            for group in self._fleet.here()
        ]
        return json.dumps({"schema_version": SCHEMA_VERSION, "address": self._advertise, "tools": tools})

    def _learn(self, replica: str, record: dict[str, Any]) -> set[tuple[str, str]]:
        """Take what a replica says; return its sessions."""
        if record["schema_version"] != SCHEMA_VERSION:
            raise ValueError(
                f"schema_version {record['schema_version']!r}; this release reads {SCHEMA_VERSION}"
            )
        by_owner: dict[str, list[dict[str, Any]]] = {}
        for item in record["tools"]:
            by_owner.setdefault(item["owner"], []).append(item)
        for owner, items in by_owner.items():
            self._learn_of(replica, owner, record["address"], items)
        return {(replica, owner) for owner in by_owner}

    def _learn_of(self, replica: str, owner: str, address: str, items: list[dict[str, Any]]) -> None:
        session = self._sessions.get((replica, owner))
        if session is None:
            session = PeerSession(f"replica {address}", owner, self._channel(address))
            self._sessions[replica, owner] = session
        offered: dict[str, tuple[ToolSpec, str]] = {}
        capacity: dict[str, int] = {}
        for item in items:
            message = pb.WorkerTool.FromString(base64.b64decode(item["tool"]))
            try:
                offered[message.name] = (specs.from_message(message, owner=owner), item["digest"])
            except AegisError as error:
                _log.error("a tool of replica %s cannot be taken: %s", address, error.message)
                continue
            capacity[message.name] = int(item["capacity"])
        self._apply(session, offered, capacity)

    def _apply(
        self, session: PeerSession, offered: dict[str, tuple[ToolSpec, str]], capacity: dict[str, int]
    ) -> None:
        before = session.offered
        for name in before:
            if name not in offered or offered[name][1] != before[name][1]:
                self._fleet.withdraw(session, name)
        session.offered = offered
        session.refresh(capacity)
        for name, (spec, digest) in offered.items():
            if name not in before or before[name][1] != digest:
                try:
                    self._fleet.bring(session, spec)
                except AegisError as error:
                    _log.warning("a tool of %s is not offered here: %s", session.name, error.message)
        self._fleet.resized(session)

    def _forget(self, present: set[tuple[str, str]]) -> None:
        for key in self._sessions.keys() - present:
            session = self._sessions.pop(key)
            for name in tuple(session.offered):
                self._fleet.withdraw(session, name)

    def _channel(self, address: str) -> MeshChannel:
        if address not in self._channels:
            self._channels[address] = mesh_channel(address, service="agent", tls=self._tls)
        return self._channels[address]


async def _reached(channel: MeshChannel) -> bool:
    """Return whether there is a connection, once that is known."""
    states = grpc.ChannelConnectivity
    while (state := channel.get_state(try_to_connect=True)) is not states.READY:
        if state in (states.TRANSIENT_FAILURE, states.SHUTDOWN):
            return False
        await channel.wait_for_state_change(state)
    return True
