"""Asks the carbon service whether a job may start, on behalf of whoever the job runs for."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Final

import grpc
import grpc.aio

from aegis.carbon.v1 import carbon_service_pb2 as pb
from aegis.carbon.v1 import carbon_service_pb2_grpc as pb_grpc
from aegis_agent.domain.jobs.errors import UnknownZone
from aegis_agent.domain.jobs.job import CarbonAnswer, CarbonPolicy
from aegis_common.auth.principal import Principal
from aegis_common.clock import Clock
from aegis_common.errors import ErrorKind
from aegis_common.rpc.errors import remote_error
from aegis_common.rpc.outgoing import acting_for

UNAVAILABLE: Final = "CARBON_UNAVAILABLE"
_TIMEOUT_S: Final = 5.0
_ASK_AGAIN: Final = timedelta(seconds=30)
"""Longest time between two questions, and the time when the service names none."""
_log: Final = logging.getLogger(__name__)


class GrpcCarbon:
    """A `Carbon` over one channel."""

    def __init__(self, channel: grpc.aio.Channel, *, clock: Clock, ask_again: timedelta = _ASK_AGAIN) -> None:
        self._stub = pb_grpc.CarbonServiceStub(channel)
        self._clock = clock
        self._ask_again = ask_again

    async def ask(self, policy: CarbonPolicy, *, principal: str, traceparent: str) -> CarbonAnswer:
        request = pb.CheckScheduleRequest(
            zone=policy.zone,
            max_intensity_g_per_kwh=policy.max_intensity,
            # A provider that is down must not hold work up; the answer says that there was no value.
            on_missing=pb.ON_MISSING_RUN_NOW,
        )
        try:
            with acting_for(Principal.from_record(principal), traceparent=traceparent):
                answer = await self._stub.CheckSchedule(request, timeout=_TIMEOUT_S)
        except grpc.RpcError as failed:
            error = remote_error(failed)
            if error.kind is ErrorKind.NOT_FOUND:
                raise UnknownZone(error.message, zone=policy.zone) from failed
            _log.warning("carbon service gave no answer: %s (%s)", error.message, error.reason)
            return CarbonAnswer(
                run_now=False, reason=UNAVAILABLE, asked=self._clock(), retry_after=self._ask_again
            )
        return self._answer(answer)

    def _answer(self, answer: pb.CheckScheduleResponse) -> CarbonAnswer:
        known = answer.HasField("intensity")
        return CarbonAnswer(
            run_now=answer.decision == pb.DECISION_RUN_NOW,
            reason=pb.Reason.Name(answer.reason).removeprefix("REASON_"),
            asked=self._clock(),
            intensity=answer.intensity.g_per_kwh if known else None,
            threshold=answer.threshold_g_per_kwh,
            source=answer.intensity.source,
            retry_after=min(answer.retry_after.ToTimedelta() or self._ask_again, self._ask_again),
        )
