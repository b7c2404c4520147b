"""Tells the carbon service what became of the jobs whose places it keeps: again until it has heard of it."""

from __future__ import annotations

import json
import logging
from datetime import datetime
from typing import Any, Final

import grpc
import grpc.aio

from aegis.carbon.v1 import reservation_service_pb2 as pb
from aegis.carbon.v1 import reservation_service_pb2_grpc as pb_grpc
from aegis_agent.adapters.jobs import keys
from aegis_agent.adapters.jobs.hold_notes import SCHEMA_VERSION, Event
from aegis_agent.adapters.jobs.reservations import NONE_HERE
from aegis_agent.adapters.jobs.store import RedisJobStore
from aegis_common.auth.principal import Principal
from aegis_common.rpc.errors import remote_error
from aegis_common.rpc.outgoing import acting_for
from aegis_common.rpc.times import timestamp

_BATCH: Final = 200
_TIMEOUT_S: Final = 5.0
_ROLES: Final = frozenset({"operator"})
_KNOWN: Final = frozenset({"RESERVATION_ENDED", "UNKNOWN_RESERVATION"}) | NONE_HERE
"""There is nothing to tell any more: the end was assumed, somebody cancelled it, or it was forgotten."""
_AGAIN: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.UNKNOWN,
    }
)
"""The service goes away, or does not know us yet: what it says then is about no single reservation."""
_EVENTS: Final = {
    Event.STARTED: pb.ReportReservationRequest.EVENT_STARTED,
    Event.FINISHED: pb.ReportReservationRequest.EVENT_FINISHED,
}
_log: Final = logging.getLogger(__name__)


class HoldPost:
    """Sends the notes that jobs left, in their order; any agent may, at any time, several at once too.

    Args:
        store: Where the notes are.
        channel: To the carbon service. The agent reports as itself: a job's end counts whoever it ran for.
    """

    def __init__(self, store: RedisJobStore, channel: grpc.aio.Channel) -> None:
        self._store = store
        self._stub = pb_grpc.ReservationServiceStub(channel)
        self._dropped = 0

    async def send(self) -> None:
        """Send what there is, until the service does not answer.

        Raises:
            JobStoreUnavailable: The store does not answer.
        """
        await self._tell_dropped()
        while True:
            found: list[tuple[bytes, dict[bytes, bytes]]] = await self._store.connection.run(
                lambda client: client.xrange(keys.HOLDS, count=_BATCH)
            )
            for entry, fields in found:
                if not await self._sent(json.loads(fields[b"note"])):
                    return
                await self._forget(entry)
            if len(found) < _BATCH:
                return

    async def _sent(self, note: dict[str, Any]) -> bool:
        """Send one note; return False when it is to be sent again."""
        if note["schema_version"] != SCHEMA_VERSION:
            _log.error("a note of a reservation has schema version %s; it stays", note["schema_version"])
            return False
        try:
            with acting_for(Principal("", "agent", note["tenant"], _ROLES)):
                await self._call(note)
        except grpc.RpcError as failed:
            if failed.code() in _AGAIN:
                return False
            error = remote_error(failed)
            if error.reason not in _KNOWN:
                _log.error(
                    "carbon refuses that the job of %s has %s: %s",
                    *(note["reservation"], note["event"], error.message),
                    extra={"job": note["job"]},
                )
        return True

    async def _call(self, note: dict[str, Any]) -> None:
        event = Event(note["event"])
        if event is Event.CANCELLED:
            cancel = pb.CancelReservationRequest(name=note["reservation"])
            await self._stub.CancelReservation(cancel, timeout=_TIMEOUT_S)
            return
        report = pb.ReportReservationRequest(
            name=note["reservation"],
            event=_EVENTS[event],
            token=note["token"],
            holder=f"jobs/{note['job']}",
            event_time=timestamp(datetime.fromisoformat(note["at"])),
        )
        await self._stub.ReportReservation(report, timeout=_TIMEOUT_S)

    async def _forget(self, entry: bytes) -> None:
        await self._store.connection.run(lambda client: client.xdel(keys.HOLDS, entry))

    async def _tell_dropped(self) -> None:
        dropped = int(await self._store.connection.run(lambda client: client.get(keys.HOLDS_DROPPED)) or 0)
        if dropped > self._dropped:
            _log.error("%d reports of jobs were dropped: too many wait for the carbon service", dropped)
        self._dropped = dropped
