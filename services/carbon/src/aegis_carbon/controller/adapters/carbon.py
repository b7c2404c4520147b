"""Reservations of the carbon service, kept for the tenant of each Job."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final

import grpc
import grpc.aio

from aegis.carbon.v1 import plan_service_pb2 as plan_pb
from aegis.carbon.v1 import reservation_service_pb2 as pb
from aegis.carbon.v1 import reservation_service_pb2_grpc as pb_grpc
from aegis_carbon.controller.domain.reservations import (
    CarbonUnavailable,
    Event,
    Later,
    Refused,
    Report,
    Reservation,
    State,
    Told,
    Wanted,
)
from aegis_common.auth.principal import Principal
from aegis_common.errors import ErrorKind
from aegis_common.reservation_holder import Signal
from aegis_common.rpc.errors import remote_error
from aegis_common.rpc.outgoing import acting_for
from aegis_common.rpc.times import duration, timestamp

_TIMEOUT_S: Final = 5.0
_PAGE: Final = 1000
_OPEN: Final = (pb.Reservation.STATE_WAITING, pb.Reservation.STATE_RUNNING, pb.Reservation.STATE_SUSPENDED)
_REFUSALS: Final = frozenset(
    {ErrorKind.INVALID_ARGUMENT, ErrorKind.NOT_FOUND, ErrorKind.ALREADY_EXISTS, ErrorKind.FAILED_PRECONDITION}
)
_NOT_CONFIGURED: Final = "RESERVATIONS_NOT_CONFIGURED"
_LET_GO: Final = frozenset({"UNKNOWN_RESERVATION", "STALE_TOKEN", "RESERVATION_ENDED"})
_ROLES: Final = frozenset({"operator"})
_MOST_LABEL: Final = 128

CLUSTER: Final = "kubernetes.cluster"
NAMESPACE: Final = "kubernetes.namespace"
JOB: Final = "kubernetes.job"
UID: Final = "kubernetes.uid"
WISH: Final = "kubernetes.wish"


class GrpcReservations:
    """`Reservations` over one channel.

    Args:
        channel: To the carbon service.
        cluster: Name of this cluster: what bears another one is another controller's.
    """

    def __init__(self, channel: grpc.aio.Channel, *, cluster: str) -> None:
        self._stub = pb_grpc.ReservationServiceStub(channel)
        self._cluster = cluster

    async def open(self, tenant: str) -> list[Reservation]:
        found: list[Reservation] = []
        page = ""
        while True:
            request = pb.ListReservationsRequest(page_size=_PAGE, page_token=page, states=_OPEN)
            with self._for(tenant):
                answer = await self._stub.ListReservations(request, timeout=_TIMEOUT_S)
            found += [
                _reservation(item, tenant)
                for item in answer.reservations
                if item.labels.get(CLUSTER) == self._cluster
            ]
            page = answer.next_page_token
            if not page:
                return found

    async def create(self, wanted: Wanted) -> Reservation:
        request = pb.CreateReservationRequest(
            reservation=_asked(wanted, self._cluster), request_id=wanted.key
        )
        with self._for(wanted.tenant, refuses=True):
            answer = await self._stub.CreateReservation(request, timeout=_TIMEOUT_S)
        return _reservation(answer.reservation, wanted.tenant)

    async def get(self, tenant: str, name: str) -> Reservation | None:
        try:
            with self._for(tenant, refuses=True):
                answer = await self._stub.GetReservation(
                    pb.GetReservationRequest(name=name), timeout=_TIMEOUT_S
                )
        except Refused:
            return None
        return _reservation(answer.reservation, tenant)

    async def report(self, tenant: str, name: str, report: Report) -> None:
        request = pb.ReportReservationRequest(
            name=name,
            event=_EVENTS[report.event],
            token=report.token,
            holder=f"kubernetes/{self._cluster}",
            event_time=timestamp(report.at),
            work_done=None if report.work_done is None else duration(report.work_done),
        )
        with self._for(tenant, lets_go=True):
            await self._stub.ReportReservation(request, timeout=_TIMEOUT_S)

    async def cancel(self, tenant: str, name: str) -> None:
        with self._for(tenant, lets_go=True):
            await self._stub.CancelReservation(pb.CancelReservationRequest(name=name), timeout=_TIMEOUT_S)

    @contextmanager
    def _for(self, tenant: str, *, refuses: bool = False, lets_go: bool = False) -> Iterator[None]:
        """Call for a tenant, and tell what is wrong by what can be done about it."""
        principal = Principal("", f"kubernetes:{self._cluster}", tenant, _ROLES)
        try:
            with acting_for(principal):
                yield
        except grpc.RpcError as failed:
            error = remote_error(failed)
            if lets_go and error.reason in _LET_GO:
                return
            if refuses and error.kind is ErrorKind.RESOURCE_EXHAUSTED:
                raise Later(error.message) from failed
            if refuses and error.kind in _REFUSALS and error.reason != _NOT_CONFIGURED:
                raise Refused(error.reason, error.message) from failed
            raise CarbonUnavailable(f"{error.message} ({error.reason})") from failed


_EVENTS: Final = {
    Event.STARTED: pb.ReportReservationRequest.EVENT_STARTED,
    Event.SUSPENDED: pb.ReportReservationRequest.EVENT_SUSPENDED,
    Event.RESUMED: pb.ReportReservationRequest.EVENT_RESUMED,
    Event.FINISHED: pb.ReportReservationRequest.EVENT_FINISHED,
}
_ON_MISSING: Final = {
    "run_now": pb.RESERVATION_ON_MISSING_RUN_NOW,
    "run_at_latest_start": pb.RESERVATION_ON_MISSING_RUN_AT_LATEST_START,
    "hold": pb.RESERVATION_ON_MISSING_HOLD,
}


def _asked(wanted: Wanted, cluster: str) -> pb.Reservation:
    wish = wanted.wish
    job = plan_pb.PlannedJob(
        zones=[f"zones/{zone}" for zone in wish.zones],
        duration=duration(wish.duration),
        deadline=timestamp(wanted.deadline),
    )
    if wish.interruptible:
        job.interruption.resume_overhead.CopyFrom(duration(wanted.resume_overhead))
        if wish.min_chunk is not None:
            job.interruption.min_chunk.CopyFrom(duration(wish.min_chunk))
    labels = {
        CLUSTER: cluster,
        NAMESPACE: wanted.namespace,
        JOB: wanted.job,
        UID: wanted.uid,
        WISH: wanted.digest,
    }
    return pb.Reservation(
        job=job,
        capacity_pool=wish.pool,
        on_missing=_ON_MISSING[wish.on_missing],
        max_hold=None if wish.max_hold is None else duration(wish.max_hold),
        labels={name: text[:_MOST_LABEL] for name, text in labels.items()},
    )


def _reservation(item: pb.Reservation, tenant: str) -> Reservation:
    spans = item.plan.spans
    return Reservation(
        name=item.name,
        tenant=tenant,
        uid=item.labels.get(UID, ""),
        namespace=item.labels.get(NAMESPACE, ""),
        job=item.labels.get(JOB, ""),
        wish=item.labels.get(WISH, ""),
        state=State(pb.Reservation.State.Name(item.state).removeprefix("STATE_")),
        start_token=item.start_token,
        signal=_told(item.signal) if item.HasField("signal") else None,
        latest_start=_moment(item, "latest_start_time"),
        starts=_moment(spans[0], "start_time") if spans else None,
        message=item.state_message,
        end_assumed=item.end_assumed,
    )


def _told(signal: pb.ReservationSignal) -> Told:
    return Told(
        signal.token,
        Signal(pb.ReservationSignal.Kind.Name(signal.kind).removeprefix("KIND_")),
        signal.message,
        _moment(signal, "latest_start_time"),
    )


def _moment(message: Any, field: str) -> datetime | None:
    found: datetime = getattr(message, field).ToDatetime(tzinfo=UTC)
    return found if message.HasField(field) else None
