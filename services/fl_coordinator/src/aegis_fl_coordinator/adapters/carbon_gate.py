"""Asks the carbon service whether a round may start, on behalf of the run's creator."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import Final

import grpc
import grpc.aio

from aegis.carbon.v1 import carbon_service_pb2 as pb
from aegis.carbon.v1 import carbon_service_pb2_grpc as pb_grpc
from aegis_common.auth.principal import Principal
from aegis_common.clock import utc_now
from aegis_common.errors import ErrorKind
from aegis_common.rpc.errors import remote_error
from aegis_common.rpc.outgoing import acting_for
from aegis_common.rpc.times import duration as to_duration
from aegis_common.rpc.times import timestamp
from aegis_fl_coordinator.domain.errors import CarbonUnavailable, UnknownZone
from aegis_fl_coordinator.domain.gate import CarbonAnswer, CarbonPolicy, RoundForecast

_TIMEOUT_S: Final = 10.0
_FARTHEST: Final = timedelta(days=7)
_CLEAN: Final = frozenset({pb.REASON_BELOW_THRESHOLD, pb.REASON_BELOW_PERCENTILE, pb.REASON_NO_BETTER_WINDOW})
_log: Final = logging.getLogger(__name__)


class GrpcCarbonGate:
    """A `CarbonGate` over one channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = pb_grpc.CarbonServiceStub(channel)

    async def check(
        self,
        policy: CarbonPolicy,
        *,
        zone: str,
        duration: timedelta,
        latest: datetime,
        principal: str,
        traceparent: str,
    ) -> CarbonAnswer:
        request = pb.CheckScheduleRequest(
            zone=zone,
            max_intensity_g_per_kwh=policy.max_intensity,
            percentile=policy.percentile,
            forecast=_rule(policy.forecast, duration=duration, latest=latest) if policy.forecast else None,
            # A provider that is down must not hold training up; the report says that there was no value.
            on_missing=pb.ON_MISSING_RUN_NOW,
        )
        try:
            with acting_for(Principal.from_record(principal), traceparent=traceparent):
                answer = await self._stub.CheckSchedule(request, timeout=_TIMEOUT_S)
        except grpc.RpcError as failed:
            error = remote_error(failed)
            if error.kind is ErrorKind.NOT_FOUND:
                raise UnknownZone(error.message, zone=zone) from failed
            _log.warning("carbon service gave no answer: %s (%s)", error.message, error.reason)
            raise CarbonUnavailable(f"the carbon service gave no answer: {error.message}") from failed
        return _answer(answer)


def _rule(asked: RoundForecast, *, duration: timedelta, latest: datetime) -> pb.ForecastRule:
    now = utc_now()
    return pb.ForecastRule(
        duration=to_duration(duration),
        deadline=timestamp(min(max(latest, now) + duration, now + _FARTHEST)),
        min_saving=asked.min_saving,
    )


def _answer(answer: pb.CheckScheduleResponse) -> CarbonAnswer:
    known = answer.HasField("intensity")
    return CarbonAnswer(
        run_now=answer.decision == pb.DECISION_RUN_NOW,
        clean=answer.reason in _CLEAN,
        reason=pb.Reason.Name(answer.reason).removeprefix("REASON_"),
        intensity=answer.intensity.g_per_kwh if known else None,
        threshold=answer.threshold_g_per_kwh or None,
        source=answer.intensity.source,
        retry_after=answer.retry_after.ToTimedelta(),
        next_window=(
            answer.next_window.start_time.ToDatetime(UTC) if answer.HasField("next_window") else None
        ),
    )
