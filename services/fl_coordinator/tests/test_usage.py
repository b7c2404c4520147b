"""What rounds used reaches the ledger once, whatever is away or restarted, and its answer the round."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from aegis.carbon.v1 import ledger_service_pb2 as ledger_pb
from aegis.fl.v1 import training_service_pb2 as pb
from aegis_fl_coordinator.domain.grids import Site
from aegis_fl_coordinator.domain.rounds import GateDecision, RoundReport
from aegis_fl_coordinator.domain.run import RunSpec, State, TrainingRun
from aegis_fl_coordinator.domain.usage import round_usages
from aegis_fl_coordinator.testing.calls import ask, get, register, start, token, told
from aegis_fl_coordinator.testing.engine import ScriptedEngine
from aegis_fl_coordinator.testing.peers import Carbon
from aegis_fl_coordinator.testing.processes import Coordinate, Stubs, until

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
RUN = TrainingRun(
    "default", "r1", RunSpec("digits", 3, 2), State.RUNNING, "", "alice", "{}", "", "c" * 64, "", NOW
)


def outcome(node: str, seconds: float | None, state: pb.NodeOutcome.State.ValueType) -> pb.NodeOutcome:
    made = pb.NodeOutcome(node=node, state=state)
    if seconds is not None:
        made.duration.FromTimedelta(timedelta(seconds=seconds))
    return made


async def known(stubs: Stubs, name: str) -> bool:
    reports = (await get(stubs, name)).round_reports
    return bool(reports) and reports[0].HasField("energy")


async def test_each_round_is_recorded_once_though_the_ledger_is_away_and_the_coordinator_restarted(
    coordinate: Coordinate, tmp_path: Path, carbon: Carbon
) -> None:
    engine, ledger = ScriptedEngine(), carbon.ledger
    ledger.away = True
    used, late = pb.NodeOutcome.STATE_USED, pb.NodeOutcome.STATE_LATE
    outcomes = [outcome("nodes/site-1", 4, used), outcome("nodes/site-2", 10, used)]
    outcomes.append(outcome("nodes/site-3", None, late))
    async with coordinate(engine) as coordinator:
        await register(coordinator, tmp_path, "site-2", zone="zones/PL", watts=300)
        await register(coordinator, tmp_path, "site-3", zone="zones/PL", watts=100)
        run = await start(coordinator, tmp_path, engine, rounds=2)
        app = await coordinator.as_account("fl-serverapp")
        await app.rounds.AwaitRound(ask(run), metadata=token(run, tmp_path))
        report = told(run, node_outcomes=outcomes, cpu_seconds=2.5)
        report.round.duration.FromSeconds(30)
        for _ in range(2):
            await app.rounds.ReportRound(report, metadata=token(run, tmp_path))
    ledger.away = False
    async with coordinate(engine) as coordinator:
        sdk = await coordinator.as_account("sdk")
        await until(lambda: known(sdk, run.name))
        (whole,) = (await sdk.training.ListRounds(pb.ListRoundsRequest(parent=run.name))).rounds
    async with coordinate(engine, usage_interval=0.01) as coordinator:
        (again,) = (await get(await coordinator.as_account("sdk"), run.name)).round_reports

    run_id = run.name.removeprefix("trainingRuns/")
    here, there = (usage for _, usage in ledger.usages)
    assert {tenant for tenant, _ in ledger.usages} == {"default"}
    assert (here.id, here.zone, here.cpu_seconds) == (f"{run_id}:1:1:coordinator", "zones/GB", 2.5)
    assert (here.kind, here.run, here.units) == (ledger_pb.USAGE_KIND_ROUND, run_id, 1)
    # 300 W for 10 s, and 100 W for the 30 s of the round by the node that was late.
    assert (there.id, there.measured_joules, there.units) == (f"{run_id}:1:1:nodes-PL", 6000, 2)
    assert there.energy_method == ledger_pb.ENERGY_METHOD_DECLARED_BY_USER
    assert not here.HasField("run_now_start_time")
    assert here.start_time.ToDatetime() < here.end_time.ToDatetime()
    assert whole.energy == pb.RoundEnergy(kwh=0.002, kwh_low=0.001, kwh_high=0.004, grams=1.0, estimated=True)
    assert (whole.unmetered_nodes, len(whole.node_outcomes)) == (1, 3)
    assert again.energy == whole.energy


def test_a_round_that_is_reported_late_has_used_nothing_meanwhile() -> None:
    report = RoundReport(
        2,
        duration=timedelta(minutes=5),
        started=NOW,
        ended=NOW + timedelta(hours=9),
        cpu_s=60.0,
        gate=GateDecision(False, "MAX_WAIT", waited=timedelta(hours=1)),
    )

    (usage,) = round_usages(RUN, report, coordinator=Site("zones/GB"), nodes={})

    assert (usage.start, usage.end) == (NOW, NOW + timedelta(minutes=5))
    assert usage.run_now == NOW - timedelta(hours=1)
