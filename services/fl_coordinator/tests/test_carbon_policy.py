"""The carbon policy of a run through RoundService: whose grid counts, by which rule, and until when."""

from __future__ import annotations

from datetime import UTC, timedelta
from pathlib import Path

import grpc.aio
import pytest

from aegis.carbon.v1 import carbon_service_pb2 as carbon_pb
from aegis.fl.v1 import training_service_pb2 as pb
from aegis_common.clock import utc_now
from aegis_fl_coordinator.domain.errors import UnknownZone
from aegis_fl_coordinator.testing.calls import ask, create, get, reason, register, start, token, told
from aegis_fl_coordinator.testing.engine import ScriptedEngine
from aegis_fl_coordinator.testing.peers import Carbon, dirty_grid
from aegis_fl_coordinator.testing.processes import Coordinate


async def test_the_zones_of_the_nodes_count_by_their_power_and_a_round_says_so(
    coordinate: Coordinate, tmp_path: Path, carbon: Carbon
) -> None:
    engine = ScriptedEngine()
    async with coordinate(engine, watts=100) as coordinator:
        await register(coordinator, tmp_path, "site-2", zone="zones/PL", watts=250)
        run = await start(coordinator, tmp_path, engine, rounds=1)
        engine.online.add(102)
        app, sdk = await coordinator.as_account("fl-serverapp"), await coordinator.as_account("sdk")
        # 100 W of the coordinator and 175 W of a node that declares none at 90; 250 W at 400 g.
        carbon.zones = {"zones/PL": dirty_grid()}
        held = await app.rounds.AwaitRound(ask(run), metadata=token(run, tmp_path), timeout=1)
        waiting = await get(sdk, run.name)
        carbon.zones["zones/PL"].intensity.g_per_kwh = 160
        await app.rounds.AwaitRound(ask(run), metadata=token(run, tmp_path))
        await app.rounds.ReportRound(told(run), metadata=token(run, tmp_path))
        (report,) = (await get(sdk, run.name)).round_reports

    assert not held.proceed
    assert waiting.state == pb.TrainingRun.STATE_WAITING_FOR_GRID
    assert waiting.state_message.startswith(
        "the grid is at 238 gCO2e/kWh in the mean of 2 zones, the threshold is 150; the round starts at "
    )
    latest = waiting.latest_start_time.ToDatetime(UTC)
    assert timedelta(minutes=50) < latest - utc_now() <= timedelta(hours=1)
    shares = [(one.zone, round(one.share, 3), one.intensity_g_per_kwh) for one in report.gate.zones]
    assert shares == [("zones/GB", 0.524, 90), ("zones/PL", 0.476, 160)]
    assert (report.gate.clean, round(report.gate.intensity_g_per_kwh)) == (True, 123)


async def test_a_zone_that_a_node_has_wrong_holds_nothing_up(
    coordinate: Coordinate, tmp_path: Path, carbon: Carbon
) -> None:
    engine = ScriptedEngine()
    carbon.answer, carbon.failure = None, UnknownZone("there is no zone")
    async with coordinate(engine) as coordinator:
        run = await start(coordinator, tmp_path, engine)
        app = await coordinator.as_account("fl-serverapp")
        answer = await app.rounds.AwaitRound(ask(run), metadata=token(run, tmp_path))

    assert answer.proceed


async def test_percentile_and_forecast_reach_carbon(
    coordinate: Coordinate, tmp_path: Path, carbon: Carbon
) -> None:
    engine = ScriptedEngine()
    by_forecast = pb.CarbonPolicy(zone="zones/DE", forecast=pb.RoundForecast(min_saving=0.2))
    by_forecast.max_wait.FromSeconds(7200)
    carbon.zones["zones/DE"] = carbon_pb.CheckScheduleResponse(
        decision=carbon_pb.DECISION_RUN_NOW,
        reason=carbon_pb.REASON_NO_BETTER_WINDOW,
        intensity=carbon_pb.Intensity(g_per_kwh=300, source="uk"),
    )
    made = pb.TrainingRun()
    async with coordinate(engine) as coordinator:
        app, sdk = await coordinator.as_account("fl-serverapp"), await coordinator.as_account("sdk")
        for policy in (pb.CarbonPolicy(percentile=25), by_forecast):
            run = await start(coordinator, tmp_path, engine, rounds=1, carbon_policy=policy)
            await app.rounds.AwaitRound(ask(run), metadata=token(run, tmp_path))
            await app.rounds.ReportRound(told(run), metadata=token(run, tmp_path))
            made = await get(sdk, run.name)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await create(sdk, carbon_policy=pb.CarbonPolicy(percentile=25, max_intensity_g_per_kwh=90))

    first, _, second = (request for request, _ in carbon.calls)  # a zone is asked for at creation, too
    assert (first.zone, first.percentile, first.HasField("forecast")) == ("zones/GB", 25, False)
    assert second.forecast.duration.seconds == 600
    assert second.forecast.min_saving == 0.2
    wait = second.forecast.deadline.ToDatetime(UTC) - timedelta(seconds=600) - utc_now()
    assert timedelta(minutes=110) < wait <= timedelta(hours=2)
    gate = made.round_reports[0].gate
    assert (gate.clean, gate.reason) == (True, "NO_BETTER_WINDOW")
    assert not gate.HasField("threshold_g_per_kwh")
    assert made.carbon_policy.forecast.min_saving == 0.2
    assert reason(error.value) == ("INVALID_ARGUMENT", "INVALID_RUN_CONFIG")
