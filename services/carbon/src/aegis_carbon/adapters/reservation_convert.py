"""Between protobuf and reservations."""

from __future__ import annotations

import hashlib
from typing import Final

from aegis.carbon.v1 import plan_service_pb2 as plan_pb
from aegis.carbon.v1 import reservation_service_pb2 as pb
from aegis_carbon.adapters.convert import ZONES
from aegis_carbon.adapters.plan_convert import interruption_message, job_request, plan_message
from aegis_carbon.domain.reservations.reservation import (
    Event,
    Kind,
    OnMissing,
    Reason,
    Reservation,
    Signal,
    State,
)
from aegis_carbon.domain.reservations.service import Wish
from aegis_common.rpc.times import duration, timestamp

RESERVATIONS: Final = "reservations/"
STATES: Final = {
    pb.Reservation.STATE_WAITING: State.WAITING,
    pb.Reservation.STATE_RUNNING: State.RUNNING,
    pb.Reservation.STATE_SUSPENDED: State.SUSPENDED,
    pb.Reservation.STATE_FINISHED: State.FINISHED,
    pb.Reservation.STATE_CANCELLED: State.CANCELLED,
}
EVENTS: Final = {
    pb.ReportReservationRequest.EVENT_STARTED: Event.STARTED,
    pb.ReportReservationRequest.EVENT_SUSPENDED: Event.SUSPENDED,
    pb.ReportReservationRequest.EVENT_RESUMED: Event.RESUMED,
    pb.ReportReservationRequest.EVENT_FINISHED: Event.FINISHED,
}
_ON_MISSING: Final = {
    pb.RESERVATION_ON_MISSING_RUN_NOW: OnMissing.RUN_NOW,
    pb.RESERVATION_ON_MISSING_RUN_AT_LATEST_START: OnMissing.RUN_AT_LATEST_START,
    pb.RESERVATION_ON_MISSING_HOLD: OnMissing.HOLD,
}
_STATE_NUMBERS: Final = {state: number for number, state in STATES.items()}
_ON_MISSING_NUMBERS: Final = {choice: number for number, choice in _ON_MISSING.items()}
_KINDS: Final = {
    Kind.START: pb.ReservationSignal.KIND_START,
    Kind.SUSPEND: pb.ReservationSignal.KIND_SUSPEND,
    Kind.RESUME: pb.ReservationSignal.KIND_RESUME,
    Kind.DEADLINE: pb.ReservationSignal.KIND_DEADLINE,
}
_REASONS: Final = {
    Reason.PLANNED_SPAN: pb.ReservationSignal.REASON_PLANNED_SPAN,
    Reason.PLANNED_PAUSE: pb.ReservationSignal.REASON_PLANNED_PAUSE,
    Reason.LATEST_START: pb.ReservationSignal.REASON_LATEST_START,
    Reason.NO_DATA: pb.ReservationSignal.REASON_NO_DATA,
    Reason.NEW_FORECAST: pb.ReservationSignal.REASON_NEW_FORECAST,
    Reason.HOLDER: pb.ReservationSignal.REASON_HOLDER,
}


def wish_of(request: pb.CreateReservationRequest) -> Wish:
    """Return what a caller asks for; what only answers say is passed over.

    Raises:
        InvalidArgument: A time is none.
    """
    asked = request.reservation
    given = pb.Reservation(
        job=asked.job,
        capacity_pool=asked.capacity_pool,
        on_missing=asked.on_missing or pb.RESERVATION_ON_MISSING_RUN_NOW,
        max_hold=asked.max_hold if asked.HasField("max_hold") else None,
        labels=asked.labels,
    )
    return Wish(
        request=job_request(given.job),
        pool=given.capacity_pool,
        on_missing=_ON_MISSING[given.on_missing],
        max_hold=given.max_hold.ToTimedelta() if given.HasField("max_hold") else None,
        labels=dict(given.labels),
        request_id=request.request_id,
        digest=hashlib.sha256(given.SerializeToString(deterministic=True)).hexdigest(),
    )


def reservation_message(item: Reservation) -> pb.Reservation:
    waits = item.state in (State.WAITING, State.SUSPENDED)
    return pb.Reservation(
        name=RESERVATIONS + item.id,
        job=_job_message(item),
        capacity_pool=item.pool,
        on_missing=_ON_MISSING_NUMBERS[item.on_missing],
        max_hold=duration(item.max_hold) if item.on_missing is OnMissing.HOLD else None,
        labels=item.labels,
        state=_STATE_NUMBERS[item.state],
        state_message=item.message,
        plan=_plan_message(item),
        signal=None if item.signal is None else signal_message(item.signal),
        start_token=item.start_token,
        latest_start_time=timestamp(item.latest_start) if waits else None,
        work_done=duration(item.done),
        replan_count=item.replans,
        create_time=timestamp(item.created),
        start_time=timestamp(item.started),
        end_time=timestamp(item.ended),
        expire_time=timestamp(item.expires),
        end_assumed=item.end_assumed,
    )


def signal_message(signal: Signal) -> pb.ReservationSignal:
    return pb.ReservationSignal(
        token=signal.token,
        kind=_KINDS[signal.kind],
        reason=_REASONS[signal.reason],
        message=signal.message,
        time=timestamp(signal.time),
        until_time=timestamp(signal.until),
        latest_start_time=timestamp(signal.latest_start),
    )


def _plan_message(item: Reservation) -> plan_pb.Plan | None:
    if item.plan is None:
        return None
    return plan_message(item.plan, item.spans, latest_start=item.latest_start, deadline=item.deadline)


def _job_message(item: Reservation) -> plan_pb.PlannedJob:
    return plan_pb.PlannedJob(
        zones=[ZONES + zone for zone in item.zones],
        duration=duration(item.duration),
        deadline=timestamp(item.deadline),
        earliest_start_time=timestamp(item.earliest),
        interruption=None if item.interruption is None else interruption_message(item.interruption),
        power=[plan_pb.PowerStep(duration=duration(part.duration), kw=part.kw) for part in item.power],
    )
