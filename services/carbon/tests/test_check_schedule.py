"""CheckSchedule over real mutual TLS: when work starts, when it waits, and what decides without data."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration
from services.carbon.tests.carbon_callers import START, failure

from aegis.carbon.v1 import carbon_service_pb2 as pb
from aegis.carbon.v1 import carbon_service_pb2_grpc as pb_grpc
from aegis_carbon.testing.clock import ManualClock
from aegis_carbon.testing.uk_api import Answer, UkApi, national

TOO_MUCH = pb.ForecastRule(duration=Duration(seconds=9), min_saving=2)


@pytest.mark.parametrize("value", [100.0, 150.0])
async def test_work_starts_at_or_below_the_zones_threshold(
    carbon: pb_grpc.CarbonServiceAsyncStub, uk_api: UkApi, value: float
) -> None:
    uk_api.default = national(START, forecast=value)
    response = await carbon.CheckSchedule(pb.CheckScheduleRequest(zone="zones/GB"))

    assert (pb.DECISION_RUN_NOW, pb.REASON_BELOW_THRESHOLD) == (response.decision, response.reason)
    assert (150.0, value) == (response.threshold_g_per_kwh, response.intensity.g_per_kwh)
    assert not response.HasField("retry_after")


async def test_work_waits_above_it_until_the_slot_ends(
    carbon: pb_grpc.CarbonServiceAsyncStub, uk_api: UkApi
) -> None:
    uk_api.default = Answer({"data": national(START, forecast=100).body["data"]})
    response = await carbon.CheckSchedule(pb.CheckScheduleRequest(zone="zones/GB-wales"))

    assert (pb.DECISION_WAIT, pb.REASON_ABOVE_THRESHOLD) == (response.decision, response.reason)
    assert 90.0 == response.threshold_g_per_kwh
    assert timedelta(minutes=18) == response.retry_after.ToTimedelta()


async def test_a_call_may_bring_its_own_threshold(
    carbon: pb_grpc.CarbonServiceAsyncStub, uk_api: UkApi
) -> None:
    uk_api.default = national(START, forecast=100)
    for limit, decision in ((99.9, pb.DECISION_WAIT), (100, pb.DECISION_RUN_NOW)):
        request = pb.CheckScheduleRequest(zone="zones/GB", max_intensity_g_per_kwh=limit)
        response = await carbon.CheckSchedule(request)

        assert (decision, limit) == (response.decision, response.threshold_g_per_kwh)


async def test_a_percentile_of_the_last_week_decides(
    carbon: pb_grpc.CarbonServiceAsyncStub, clock: ManualClock
) -> None:
    seen = []
    for hour in range(24):
        clock.now = START + timedelta(hours=hour)
        request = pb.CheckScheduleRequest(zone="zones/demo-day", percentile=30)
        seen.append(await carbon.CheckSchedule(request))

    ran = [answer for answer in seen if answer.decision == pb.DECISION_RUN_NOW]
    waited = [answer for answer in seen if answer.decision == pb.DECISION_WAIT]
    assert 3 <= len(ran) <= 12
    assert {pb.REASON_BELOW_PERCENTILE} == {answer.reason for answer in ran}
    assert {pb.REASON_ABOVE_PERCENTILE} == {answer.reason for answer in waited}
    assert all(answer.intensity.g_per_kwh <= answer.threshold_g_per_kwh for answer in ran)
    for answer in waited:
        assert answer.next_window.start_time.ToDatetime() >= answer.intensity.end_time.ToDatetime()
        assert answer.next_window.g_per_kwh <= answer.threshold_g_per_kwh


async def test_a_forecast_says_whether_waiting_is_worth_it(
    carbon: pb_grpc.CarbonServiceAsyncStub, clock: ManualClock
) -> None:
    clock.now = START.replace(hour=18)  # the evening peak; it is cleaner at night

    def asked(hours: float, min_saving: float | None = None) -> pb.CheckScheduleRequest:
        rule = pb.ForecastRule(duration=Duration(seconds=7200), min_saving=min_saving)
        rule.deadline.FromDatetime(clock.now + timedelta(hours=hours))
        return pb.CheckScheduleRequest(zone="zones/demo-day", forecast=rule)

    worth, not_worth, late = [
        await carbon.CheckSchedule(request) for request in (asked(14), asked(14, 0.95), asked(1))
    ]

    assert (pb.DECISION_WAIT, pb.REASON_BETTER_WINDOW) == (worth.decision, worth.reason)
    assert worth.next_window.end_time.ToDatetime() <= (clock.now + timedelta(hours=14)).replace(tzinfo=None)
    assert worth.next_window.g_per_kwh < 0.95 * worth.intensity.g_per_kwh
    assert timedelta(0) < worth.retry_after.ToTimedelta() <= timedelta(hours=1)
    assert (pb.DECISION_RUN_NOW, pb.REASON_NO_BETTER_WINDOW) == (not_worth.decision, not_worth.reason)
    assert (pb.DECISION_RUN_NOW, pb.REASON_LATEST_START) == (late.decision, late.reason)


async def test_whoever_follows_the_forecast_rule_is_never_late(
    carbon: pb_grpc.CarbonServiceAsyncStub, clock: ManualClock
) -> None:
    clock.now = START.replace(hour=17, minute=7)
    deadline = clock.now + timedelta(hours=9)
    rule = pb.ForecastRule(duration=Duration(seconds=5400))
    rule.deadline.FromDatetime(deadline)
    while True:
        answer = await carbon.CheckSchedule(pb.CheckScheduleRequest(zone="zones/demo-day", forecast=rule))
        if answer.decision == pb.DECISION_RUN_NOW:
            break
        clock.now += answer.retry_after.ToTimedelta()

    assert clock.now + timedelta(minutes=90) <= deadline


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        (pb.CheckScheduleRequest(percentile=20, max_intensity_g_per_kwh=9), "different rules; give one"),
        (pb.CheckScheduleRequest(percentile=0), "percentile"),
        (pb.CheckScheduleRequest(forecast=pb.ForecastRule()), "duration"),
        (pb.CheckScheduleRequest(forecast=TOO_MUCH), "min_saving"),
    ],
)
async def test_a_rule_that_contradicts_itself_is_refused(
    carbon: pb_grpc.CarbonServiceAsyncStub, request_: pb.CheckScheduleRequest, told: str
) -> None:
    error = await failure(carbon.CheckSchedule(request_))

    assert grpc.StatusCode.INVALID_ARGUMENT == error.code()
    assert told in str(error.details())


@pytest.mark.parametrize("rule", [{"percentile": 20}, {"forecast": {"duration": "60s"}}])
async def test_without_history_on_missing_decides(
    carbon: pb_grpc.CarbonServiceAsyncStub, uk_api: UkApi, rule: dict[str, Any]
) -> None:
    uk_api.default = Answer(None, 400)
    request = json_format.ParseDict(
        {"zone": "zones/GB", "onMissing": "ON_MISSING_WAIT", **rule}, pb.CheckScheduleRequest()
    )
    answer = await carbon.CheckSchedule(request)

    assert (pb.DECISION_WAIT, pb.REASON_NO_DATA) == (answer.decision, answer.reason)


async def test_a_call_without_a_zone_gets_the_default_zone(
    carbon: pb_grpc.CarbonServiceAsyncStub, uk_api: UkApi
) -> None:
    uk_api.default = national(START, forecast=100)
    response = await carbon.CheckSchedule(pb.CheckScheduleRequest())

    assert "zones/GB" == response.intensity.zone


@pytest.mark.parametrize(
    ("on_missing", "decision"),
    [
        (pb.ON_MISSING_UNSPECIFIED, pb.DECISION_RUN_NOW),
        (pb.ON_MISSING_RUN_NOW, pb.DECISION_RUN_NOW),
        (pb.ON_MISSING_WAIT, pb.DECISION_WAIT),
    ],
)
async def test_missing_data_does_not_fail_a_check(
    carbon: pb_grpc.CarbonServiceAsyncStub,
    uk_api: UkApi,
    on_missing: pb.OnMissing.ValueType,
    decision: pb.Decision.ValueType,
) -> None:
    uk_api.default = Answer(None, 400)
    response = await carbon.CheckSchedule(pb.CheckScheduleRequest(zone="zones/GB", on_missing=on_missing))

    assert (decision, pb.REASON_NO_DATA) == (response.decision, response.reason)
    assert not response.HasField("intensity")
    assert (decision == pb.DECISION_WAIT) == response.HasField("retry_after")
