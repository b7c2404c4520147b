"""Holds the places in time of jobs at the carbon service, on behalf of whoever a job runs for."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

import grpc
import grpc.aio

from aegis.carbon.v1 import plan_service_pb2 as plan_pb
from aegis.carbon.v1 import reservation_service_pb2 as pb
from aegis.carbon.v1 import reservation_service_pb2_grpc as pb_grpc
from aegis_agent.adapters.jobs.carbon import UNAVAILABLE
from aegis_agent.domain.jobs.grid import hold_deadline
from aegis_agent.domain.jobs.job import CarbonAnswer, Hold, Job
from aegis_common.auth.principal import Principal
from aegis_common.clock import Clock
from aegis_common.errors import ErrorKind
from aegis_common.reservation_holder import Effect, ReservationHolder, Signal
from aegis_common.rpc.errors import remote_error
from aegis_common.rpc.outgoing import acting_for
from aegis_common.rpc.times import duration, timestamp

NONE_HERE: Final = frozenset({"RESERVATIONS_NOT_CONFIGURED", "ON_BEHALF_OF_NOT_ALLOWED"})
"""The service has no store, or is older than reservations: then nobody may call what it does not know."""
_PASSING: Final = frozenset(
    {
        ErrorKind.UNAVAILABLE,
        ErrorKind.DEADLINE_EXCEEDED,
        ErrorKind.ABORTED,
        ErrorKind.CANCELLED,
        ErrorKind.INTERNAL,
    }
)
_TIMEOUT_S: Final = 5.0
_LOOK_AGAIN_S: Final = 60.0
"""How long a service that has no reservations is not asked for one."""
_LONGEST: Final = timedelta(seconds=15)
"""Longest time between two looks: a new forecast may have moved the plan to an earlier time."""
_SOON: Final = timedelta(seconds=5)
"""The same while there is no plan, or no answer."""
_SHORTEST: Final = timedelta(seconds=0.5)
_LABEL: Final = 128
_SIGNALS: Final = {pb.ReservationSignal.Kind.Value(f"KIND_{kind.value}"): kind for kind in Signal}
_log: Final = logging.getLogger(__name__)


class GrpcReservations:
    """`Reservations` over one channel.

    Args:
        channel: To the carbon service.
        clock: The time.
        elapsed_s: A clock that never steps.
    """

    def __init__(
        self, channel: grpc.aio.Channel, *, clock: Clock, elapsed_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._stub = pb_grpc.ReservationServiceStub(channel)
        self._clock = clock
        self._elapsed_s = elapsed_s
        self._none_until = 0.0

    async def hold(self, job: Job) -> CarbonAnswer | None:
        if self._elapsed_s() < self._none_until:
            return None
        try:
            with acting_for(Principal.from_record(job.principal), traceparent=job.traceparent):
                found = await self._found(job) or await self._made(job)
        except grpc.RpcError as failed:
            error = remote_error(failed)
            if error.reason in NONE_HERE or failed.code() is grpc.StatusCode.UNIMPLEMENTED:
                self._none_until = self._elapsed_s() + _LOOK_AGAIN_S
                return None
            if error.kind not in _PASSING:
                raise error from failed
            _log.warning("a job's reservation cannot be seen: %s (%s)", error.message, error.reason)
            return CarbonAnswer(run_now=False, reason=UNAVAILABLE, asked=self._clock(), retry_after=_SOON)
        return self._answer(job, found)

    async def _found(self, job: Job) -> pb.Reservation | None:
        """Return the reservation that the job has; None when it is to be made, or was lost by the service."""
        if job.hold is None:
            return None
        request = pb.GetReservationRequest(name=job.hold.name)
        try:
            return (await self._stub.GetReservation(request, timeout=_TIMEOUT_S)).reservation
        except grpc.RpcError as failed:
            if failed.code() is grpc.StatusCode.NOT_FOUND:
                return None
            raise

    async def _made(self, job: Job) -> pb.Reservation:
        spec, policy = job.spec, job.spec.carbon
        work = plan_pb.PlannedJob(
            zones=[policy.zone] if policy and policy.zone else [],
            duration=duration(spec.duration),
            deadline=timestamp(hold_deadline(job)),
            earliest_start_time=timestamp(spec.not_before),
        )
        request = pb.CreateReservationRequest(
            reservation=pb.Reservation(
                job=work,
                capacity_pool=policy.pool if policy else "",
                # A provider that is down must not hold work up.
                on_missing=pb.RESERVATION_ON_MISSING_RUN_NOW,
                labels={"job": job.job_id, "tool": spec.tool[:_LABEL]},
            ),
            request_id=f"job-{job.job_id}-{job.waits}",
        )
        return (await self._stub.CreateReservation(request, timeout=_TIMEOUT_S)).reservation

    def _answer(self, job: Job, found: pb.Reservation) -> CarbonAnswer:
        now = self._clock()
        rules = ReservationHolder(hold_deadline(job), job.spec.duration, start_token=found.start_token)
        signal = found.signal
        if signal.kind in _SIGNALS:
            rules.told(signal.token, _SIGNALS[signal.kind])
        rules.answered(signal.token, _moment(found, "latest_start_time"))
        planned = _moment(found.plan.spans[0], "start_time") if found.plan.spans else None
        hold = Hold(
            name=found.name,
            number=job.waits,
            start_token=found.start_token,
            planned_start=planned,
            latest_start=rules.latest_start(),
            saving=found.plan.saving if planned else None,
        )
        return CarbonAnswer(
            run_now=rules.order(now, self._elapsed_s()).effect is Effect.START,
            reason=_reason(found),
            asked=now,
            retry_after=_SOON if planned is None else min(max(planned - now, _SHORTEST), _LONGEST),
            hold=hold,
        )


def _reason(found: pb.Reservation) -> str:
    if found.HasField("signal"):
        return pb.ReservationSignal.Reason.Name(found.signal.reason).removeprefix("REASON_")
    if found.state == pb.Reservation.STATE_CANCELLED:
        return "RESERVATION_CANCELLED"
    return "PLANNED" if found.plan.spans else "UNPLANNED"


def _moment(holder: pb.Reservation | plan_pb.PlanSpan, field: str) -> datetime | None:
    if not holder.HasField(field):  # type: ignore[arg-type]  # a field of either
        return None
    return getattr(holder, field).ToDatetime(tzinfo=UTC)  # type: ignore[no-any-return]
