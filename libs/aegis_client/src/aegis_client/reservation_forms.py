"""Reservations as the SDK shows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from aegis.carbon.v1 import reservation_service_pb2 as pb
from aegis_client.carbon_plans import Plan, read_plan
from aegis_client.core.operation import Page, Step
from aegis_client.core.values import enum_name, moment, span


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservationSignal:
    """What the holder of a reservation is to do.

    Attributes:
        token: A holder acts on a higher one than the last it acted on, and on no other.
        kind: `START`, `SUSPEND`, `RESUME` or `DEADLINE`: run to the end.
        reason: `PLANNED_SPAN`, `PLANNED_PAUSE`, `LATEST_START`, `NO_DATA`, `NEW_FORECAST` or `HOLDER`.
        until_time: When the next signal is planned.
        latest_start_time: For a suspension: when the work goes on by itself.
    """

    token: int
    kind: str
    reason: str
    message: str
    time: datetime | None
    until_time: datetime | None
    latest_start_time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """A place in time for work that can wait.

    Attributes:
        name: `reservations/{reservation}`.
        zones: Zones in which it may run, its home first.
        duration: Time that the work runs in all.
        deadline: Moment by which it has ended.
        state: `WAITING`, `RUNNING`, `SUSPENDED`, `FINISHED` or `CANCELLED`.
        plan: Of the work that is left; None while nothing is known of the grid, and after the end.
        signal: The signal that holds now; None before the first.
        start_token: Token of the first start, told or by itself.
        latest_start_time: When its holder starts, or goes on, by itself.
        replan_count: How often a new forecast changed the plan.
        end_assumed: Whether nobody reported its end.
    """

    name: str
    zones: tuple[str, ...]
    duration: timedelta | None
    deadline: datetime | None
    interruptible: bool
    pool: str
    on_missing: str
    labels: Mapping[str, str]
    state: str
    state_message: str
    plan: Plan | None
    signal: ReservationSignal | None
    start_token: int
    latest_start_time: datetime | None
    work_done: timedelta | None
    replan_count: int
    create_time: datetime | None
    start_time: datetime | None
    end_time: datetime | None
    end_assumed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservationEvent:
    """What a watch tells: the reservation as it stands, or a signal.

    Attributes:
        reservation: The reservation, at first, with each new plan and at the end.
        signal: A new signal.
        end: Whether the reservation has ended: the last event.
        resume_token: Where another watch goes on.
    """

    reservation: Reservation | None
    signal: ReservationSignal | None
    end: bool
    resume_token: str


def read_reservation(found: pb.Reservation) -> Reservation:
    return Reservation(
        name=found.name,
        zones=tuple(found.job.zones),
        duration=span(found.job, "duration"),
        deadline=moment(found.job, "deadline"),
        interruptible=found.job.HasField("interruption"),
        pool=found.capacity_pool,
        on_missing=enum_name(pb.ReservationOnMissing, found.on_missing),
        labels=dict(found.labels),
        state=enum_name(pb.Reservation.State, found.state),
        state_message=found.state_message,
        plan=read_plan(found.plan) if found.HasField("plan") else None,
        signal=read_signal(found.signal) if found.HasField("signal") else None,
        start_token=found.start_token,
        latest_start_time=moment(found, "latest_start_time"),
        work_done=span(found, "work_done"),
        replan_count=found.replan_count,
        create_time=moment(found, "create_time"),
        start_time=moment(found, "start_time"),
        end_time=moment(found, "end_time"),
        end_assumed=found.end_assumed,
    )


def read_signal(signal: pb.ReservationSignal) -> ReservationSignal:
    return ReservationSignal(
        token=signal.token,
        kind=enum_name(pb.ReservationSignal.Kind, signal.kind),
        reason=enum_name(pb.ReservationSignal.Reason, signal.reason),
        message=signal.message,
        time=moment(signal, "time"),
        until_time=moment(signal, "until_time"),
        latest_start_time=moment(signal, "latest_start_time"),
    )


def read_page(answer: pb.ListReservationsResponse) -> Page[Reservation]:
    return Page([read_reservation(item) for item in answer.reservations], answer.next_page_token)


def read_step(message: pb.WatchReservationResponse) -> Step[ReservationEvent]:
    kind = message.WhichOneof("event")
    if kind == "reconnect":
        return Step(resume_token=message.resume_token, reconnect=True)
    if kind is None:
        return Step(resume_token=message.resume_token)  # an event of a newer server
    whole = {"reservation": message.reservation, "end": message.end}.get(kind)
    event = ReservationEvent(
        reservation=read_reservation(whole) if whole is not None else None,
        signal=read_signal(message.signal) if kind == "signal" else None,
        end=kind == "end",
        resume_token=message.resume_token,
    )
    return Step(event, message.resume_token, last=event.end)
