"""Reservations: work that waits for clean power, is told when to run, and is never late."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from aegis.carbon.v1 import reservation_service_pb2 as pb
from aegis_client.carbon_plans import PlannedJob, to_job
from aegis_client.core.operation import Listing, Operation, Page, Watch, method
from aegis_client.core.surface import AsyncApi, SyncApi, stream, unary
from aegis_client.core.values import duration, enum_value, resource, stamp
from aegis_client.reservation_forms import (
    Reservation,
    ReservationEvent,
    read_page,
    read_reservation,
    read_step,
)

_SERVICE: Final = "ReservationService"
# Sent again without harm: each request has its own key.
CREATE: Final = replace(
    method(pb, _SERVICE, "CreateReservation", pb.CreateReservationResponse), idempotent=True
)
GET: Final = method(pb, _SERVICE, "GetReservation", pb.GetReservationResponse)
LIST: Final = method(pb, _SERVICE, "ListReservations", pb.ListReservationsResponse)
CANCEL: Final = method(pb, _SERVICE, "CancelReservation", pb.CancelReservationResponse)
REPORT: Final = method(pb, _SERVICE, "ReportReservation", pb.ReportReservationResponse)
WATCH: Final = method(pb, _SERVICE, "WatchReservation", pb.WatchReservationResponse)


def _create(
    job: PlannedJob,
    *,
    pool: str = "",
    on_missing: str = "run_now",
    max_hold: float | timedelta | None = None,
    labels: Mapping[str, str] | None = None,
    request_id: str = "",
    timeout: float | None = None,
) -> Operation[Reservation]:
    """Reserve a place in time; when this returns, it is on disk and its deadline can be kept.

    Args:
        job: What is to be run.
        pool: Pool whose capacity it takes while it runs; empty takes none.
        on_missing: What it does while nothing is known of the grid: `run_now`, `run_at_latest_start` or
            `hold`.
        max_hold: Longest wait with `hold`, in seconds or as a timedelta.
        labels: Up to 32, for people.
        request_id: Idempotency key: the same again with the same job returns the same reservation. If empty,
            a new one.
        timeout: Deadline of this call, in seconds.

    Raises:
        NotFound: Reason `UNKNOWN_ZONE` or `UNKNOWN_CAPACITY_POOL`.
        FailedPrecondition: Reason `INFEASIBLE_JOB`, with `earliest_finish`, and for a full pool with a
            `deadline` that would be accepted; `RESERVATIONS_NOT_CONFIGURED`.
        AlreadyExists: Reason `REQUEST_ID_REUSED`.
        ResourceExhausted: Reason `TOO_MANY_RESERVATIONS`.
        Unavailable: Reason `RESERVATION_STORE_UNAVAILABLE`.
    """
    kinds = pb.ReservationOnMissing
    asked = pb.Reservation(
        job=to_job(job),
        capacity_pool=pool,
        on_missing=kinds.ValueType(enum_value(kinds, on_missing, "on_missing")),
        max_hold=duration(max_hold),
        labels=dict(labels or {}),
    )
    request = pb.CreateReservationRequest(reservation=asked, request_id=request_id or str(uuid.uuid4()))
    return Operation(CREATE, request, lambda answer: read_reservation(answer.reservation), timeout)


def _get(name: str, *, timeout: float | None = None) -> Operation[Reservation]:
    """Return one reservation.

    Raises:
        NotFound: Reason `UNKNOWN_RESERVATION`.
    """
    request = pb.GetReservationRequest(name=resource("reservations", name))
    return Operation(GET, request, lambda answer: read_reservation(answer.reservation), timeout)


def _list(*, states: Sequence[str] = (), page_size: int = 0) -> Listing[Reservation]:
    """Iterate over the tenant's reservations, newest first.

    Args:
        states: Only those in one of these states, for example `waiting`; if empty, all.
        page_size: Reservations that are fetched at a time.
    """
    kinds = pb.Reservation.State
    wanted = [kinds.ValueType(enum_value(kinds, state, "states")) for state in states]

    def fetch(token: str) -> Operation[Page[Reservation]]:
        request = pb.ListReservationsRequest(states=wanted, page_size=page_size, page_token=token)
        return Operation(LIST, request, read_page)

    return Listing(fetch)


def _cancel(name: str, *, timeout: float | None = None) -> Operation[Reservation]:
    """Give a reservation back; one that has ended stays as it is. Work that runs is not stopped.

    Raises:
        NotFound: Reason `UNKNOWN_RESERVATION`.
    """
    request = pb.CancelReservationRequest(name=resource("reservations", name))
    return Operation(CANCEL, request, lambda answer: read_reservation(answer.reservation), timeout)


def _report(
    name: str,
    event: str,
    *,
    token: int,
    holder: str = "",
    event_time: datetime | None = None,
    work_done: float | timedelta | None = None,
    timeout: float | None = None,
) -> Operation[Reservation]:
    """Say what the holder did; the plan for the rest follows it. The same again changes nothing.

    Args:
        name: `reservations/{reservation}`, or its last part.
        event: `started`, `suspended`, `resumed` or `finished`.
        token: That of the signal which was acted on; the start token for a first start.
        holder: Names who runs the work: another one is then refused.
        event_time: When, with a time zone; None is now.
        work_done: Time that the work has run in all; None is as planned.
        timeout: Deadline of this call, in seconds.

    Raises:
        NotFound: Reason `UNKNOWN_RESERVATION`.
        Aborted: Reason `STALE_TOKEN`: another holder has it.
        FailedPrecondition: Reason `RESERVATION_ENDED`.
    """
    kinds = pb.ReportReservationRequest.Event
    request = pb.ReportReservationRequest(
        name=resource("reservations", name),
        event=kinds.ValueType(enum_value(kinds, event, "event")),
        token=token,
        holder=holder,
        event_time=stamp(event_time, "event_time"),
        work_done=duration(work_done),
    )
    return Operation(REPORT, request, lambda answer: read_reservation(answer.reservation), timeout)


def _watch(name: str, *, resume_token: str = "", timeout: float | None = None) -> Watch[ReservationEvent]:
    """Iterate over the signals and plans of a reservation, until it has ended; broken streams are resumed.

    Args:
        name: `reservations/{reservation}`, or its last part.
        resume_token: Where to go on; if empty, the first event is the reservation as it stands.
        timeout: Deadline of the whole watch, in seconds; None means none.

    Raises:
        NotFound: Reason `UNKNOWN_RESERVATION`.
        InvalidArgument: Reason `INVALID_RESUME_TOKEN`.
        DeadlineExceeded: The `timeout` is over.
    """
    reservation = resource("reservations", name)

    def request(token: str) -> pb.WatchReservationRequest:
        return pb.WatchReservationRequest(name=reservation, resume_token=token)

    return Watch(WATCH, request, read_step, resume_token, timeout)


class ReservationsSurface:
    create = unary(_create)
    get = unary(_get)
    list = stream(_list)
    cancel = unary(_cancel)
    report = unary(_report)
    watch = stream(_watch)


class Reservations(ReservationsSurface, SyncApi):
    """`Client.reservations`."""


class AsyncReservations(ReservationsSurface, AsyncApi):
    """`AsyncClient.reservations`."""
