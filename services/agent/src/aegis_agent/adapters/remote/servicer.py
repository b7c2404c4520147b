"""aegis.agent.v1.WorkerService: takes workers in, one stream each."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any, Final

import grpc.aio

from aegis.agent.v1 import worker_service_pb2 as pb
from aegis.agent.v1 import worker_service_pb2_grpc as pb_grpc
from aegis_agent.adapters.remote.errors import WorkerProtocol, WorkerSessionGone
from aegis_agent.adapters.remote.fleet import Fleet
from aegis_agent.adapters.remote.forwarding import Forwarded
from aegis_agent.adapters.remote.policy import WorkerPolicy
from aegis_agent.adapters.remote.remote_call import WINDOW
from aegis_agent.adapters.remote.session import Stream, WorkerSession
from aegis_agent.domain.dispatch import ArtifactsOf
from aegis_common.rpc.call import current_call

STREAM_LIFE: Final = timedelta(minutes=8)
"""Age at which a stream is to be replaced: connections end at 10 minutes of age, or 10 minutes later."""
WITHIN: Final = timedelta(minutes=2)
_HELLO_S: Final = 10.0
_log: Final = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]


class WorkerServicer(pb_grpc.WorkerServiceServicer):
    """Lets workers in that the policy names.

    Args:
        fleet: The workers.
        policy: Which may bring what.
        artifacts: Gives a caller's way to artifacts; None where there is no artifact store.
        max_message_bytes: Largest message that this server takes.
        stream_life: Age at which a stream is to be replaced.
        within: How long a worker has for that.
    """

    def __init__(
        self,
        fleet: Fleet,
        policy: WorkerPolicy,
        *,
        max_message_bytes: int,
        artifacts: ArtifactsOf | None = None,
        stream_life: timedelta = STREAM_LIFE,
        within: timedelta = WITHIN,
    ) -> None:
        self._fleet = fleet
        self._policy = policy
        self._max_message_bytes = max_message_bytes
        self._artifacts = artifacts
        self._life = stream_life
        self._within = within

    def begin_drain(self) -> None:
        """Send every worker elsewhere, because this agent is about to end; what runs goes on."""
        self._fleet.begin_drain()

    async def Connect(  # type: ignore[override]  # writes by itself, when it has something to say
        self, request_iterator: AsyncIterator[pb.ConnectRequest], context: Context
    ) -> None:
        peer = current_call().principal.spiffe_id
        grant = await self._policy.grant(peer)
        hello = await _hello(request_iterator)
        refused: list[pb.WorkerRefusal] = []
        if hello.resume:
            session = self._resumed(hello, peer)
        else:
            session, refused = self._fleet.join(hello, peer=peer, grant=grant)
            _tell("worker has come", session, refused=", ".join(item.tool for item in refused))
        stream = Stream()
        try:
            await session.serve(
                stream,
                request_iterator,
                context.write,
                self._welcome(session, refused),
                life=min(self._life, _time_left() / 2),
                within=min(self._within, _time_left() / 4),
            )
        finally:
            if not stream.replaced:
                self._fleet.leave(session)
                _tell("worker has left", session)

    async def Forward(  # type: ignore[override]  # writes by itself, so that a slow reader is waited for
        self, request: pb.ForwardRequest, context: Context
    ) -> None:
        await Forwarded(request, context).serve(self._fleet, self._artifacts)

    def _resumed(self, hello: pb.WorkerHello, peer: str) -> WorkerSession:
        session = self._fleet.find(hello.resume, peer=peer)
        if session is None:
            raise WorkerSessionGone("this agent does not have the session that is to go on; begin a new one")
        return session

    def _welcome(self, session: WorkerSession, refused: list[pb.WorkerRefusal]) -> pb.ConnectResponse:
        welcome = pb.WorkerWelcome(
            session=session.id,
            tools=sorted(session.concurrency),
            refused=refused,
            credit=session.credit,
            window=WINDOW,
            max_message_bytes=self._max_message_bytes,
        )
        welcome.heartbeat.FromTimedelta(self._fleet.heartbeat)
        return pb.ConnectResponse(welcome=welcome)


async def _hello(requests: AsyncIterator[pb.ConnectRequest]) -> pb.WorkerHello:
    try:
        async with asyncio.timeout(_HELLO_S):
            first = await anext(requests, None)
    except TimeoutError as error:
        raise WorkerProtocol(f"no hello came within {_HELLO_S:g} s") from error
    if first is None or not first.HasField("hello"):
        raise WorkerProtocol("the first message must be hello")
    if not first.hello.tools and not first.hello.resume:
        raise WorkerProtocol("hello names no tools")
    return first.hello


def _time_left() -> timedelta:
    return timedelta(seconds=current_call().time_remaining())


def _tell(what: str, session: WorkerSession, **more: str) -> None:
    extra = {"worker": session.name, "peer": session.peer, "tools": ", ".join(sorted(session.concurrency))}
    _log.info(what, extra={**extra, **more})
