"""The coordinator's side of a running app: lets its rounds in one by one and takes its reports."""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from aegis_common.clock import Clock
from aegis_common.errors import InvalidArgument
from aegis_fl_coordinator.domain.changes import Changes
from aegis_fl_coordinator.domain.errors import CarbonUnavailable, InvalidRunToken, RunEnded, UnknownZone
from aegis_fl_coordinator.domain.gate import CarbonAnswer, CarbonGate, Wait, decide
from aegis_fl_coordinator.domain.grids import combined, shares
from aegis_fl_coordinator.domain.ports import RunStore
from aegis_fl_coordinator.domain.privacy import budget_fault
from aegis_fl_coordinator.domain.registry import NodeRegistry
from aegis_fl_coordinator.domain.rounds import GateDecision, RoundReport
from aegis_fl_coordinator.domain.run import State, TrainingRun
from aegis_fl_coordinator.domain.training import token_digest
from aegis_fl_coordinator.domain.usage import RoundUsage, round_usages, unmetered

Change = Callable[[TrainingRun], TrainingRun]
_log: Final = logging.getLogger(__name__)
_ASK_NODES_AGAIN: Final = timedelta(seconds=1)


class Admission:
    """Rounds of all runs; a caller reaches the run of its token only."""

    def __init__(
        self, *, store: RunStore, gate: CarbonGate, nodes: NodeRegistry, changes: Changes, clock: Clock
    ) -> None:
        self._nodes = nodes
        self._store = store
        self._gate = gate
        self._changes = changes
        self._clock = clock

    def authorised(self, run_id: str, token: str) -> TrainingRun:
        """Return the run that *token* belongs to.

        Raises:
            UnknownTrainingRun: There is no such run.
            InvalidRunToken: The token is another run's, or nobody's.
        """
        run = self._store.find_run(run_id)
        if not run.token_sha256 or not hmac.compare_digest(token_digest(token), run.token_sha256):
            raise InvalidRunToken(f"the token is not the one of {run.name}", name=run.name)
        return run

    async def await_round(
        self, run_id: str, number: int, *, nodes_online: int, patience: timedelta
    ) -> Wait | None:
        """Return None when round *number* may start, else when to ask again; wait for it up to *patience*.

        Raises:
            RunEnded: The run is to end, or to pause; or its privacy budget is spent and it has failed.
        """
        try:
            return await self._await(run_id, number, nodes_online=nodes_online, patience=patience)
        except RunEnded:
            self._note_told(run_id)
            raise

    async def _await(
        self, run_id: str, number: int, *, nodes_online: int, patience: timedelta
    ) -> Wait | None:
        end = self._clock() + patience
        while True:
            run = self._going(run_id)
            if number <= run.let_in:
                return None
            if run.state is State.PAUSING:
                raise RunEnded(f"{run.name} is being paused", name=run.name, state=run.state.value)
            self._check_budget(run, number)
            if nodes_online < run.spec.min_nodes:
                self._move(run_id, State.WAITING_FOR_NODES, self._nodes.missing(nodes_online, run))
                return Wait(_ASK_NODES_AGAIN, "")
            outcome = await self._ask(run, since=run.waiting_since or self._clock())
            if isinstance(outcome, GateDecision):
                self._open(run_id, number, outcome)
                return None
            self._move(run_id, State.WAITING_FOR_GRID, outcome.message, waiting_since=self._clock())
            left = end - self._clock()
            if outcome.retry_after > left:
                return outcome
            await self._changes.wait(run_id, at_most=outcome.retry_after)

    def report(self, run_id: str, report: RoundReport) -> TrainingRun:
        """Store the report of a round; one that is there already stays.

        Raises:
            RunEnded: The run is to end.
            InvalidArgument: The run has no such round.
        """
        run = self._going(run_id)
        if report.number > run.spec.rounds:
            raise InvalidArgument(
                f"round {report.number} of a run with {run.spec.rounds}", round=str(report.number)
            )
        nodes = self._nodes.declared(run.tenant)
        counted = replace(report, unmetered_nodes=unmetered(run, report, nodes))

        def used(run: TrainingRun, report: RoundReport) -> list[RoundUsage]:
            return round_usages(run, report, coordinator=self._nodes.coordinator, nodes=nodes)

        run = self._store.update_run(
            run_id, lambda run: run.with_round(counted, now=self._clock()), usages=used
        )
        self._changes.notify(run_id)
        return run

    def _going(self, run_id: str) -> TrainingRun:
        run = self._store.find_run(run_id)
        if run.stopping or run.state in (State.PUBLISHING, State.PAUSED):
            raise RunEnded(f"{run.name} is {run.state.value}", name=run.name, state=run.state.value)
        return run

    def _check_budget(self, run: TrainingRun, number: int) -> None:
        """Fail a run whose privacy budget does not cover another round; the app's own word is the least."""
        told = run.rounds[-1].noisy_releases if run.rounds else None
        releases = max(number, (told or 0) + 1)
        fault = budget_fault(run.spec.aggregation, run.spec.privacy, releases=releases)
        if fault:
            self._move(run.run_id, State.FAILED, fault)
            raise RunEnded(fault, name=run.name, state=State.FAILED.value)

    async def _ask(self, run: TrainingRun, *, since: datetime) -> GateDecision | Wait:
        policy = run.spec.carbon
        parts = {policy.zone: 1.0} if policy.zone else shares(await self._nodes.sites(run))
        found = await asyncio.gather(*(self._ask_zone(run, zone, since=since) for zone in parts))
        answer = combined(dict(zip(parts, found, strict=True)), parts)
        return decide(answer, policy, since=since, now=self._clock(), rounds=run.rounds)

    async def _ask_zone(self, run: TrainingRun, zone: str, *, since: datetime) -> CarbonAnswer | None:
        policy = run.spec.carbon
        try:
            return await self._gate.check(
                policy,
                zone=zone,
                duration=policy.round_duration(run.rounds),
                latest=policy.latest_start(since, run.rounds)[0],
                principal=run.principal,
                traceparent=run.traceparent,
            )
        except CarbonUnavailable:
            return None
        except UnknownZone as error:
            if not policy.zone:
                # A site that has its zone wrong must not end the run of all.
                _log.warning("run %s: a node's zone does not count: %s", run.name, error.message)
                return None
            self._move(run.run_id, State.FAILED, error.message)
            raise RunEnded(error.message, name=run.name, state=State.FAILED.value) from error

    def _open(self, run_id: str, number: int, decision: GateDecision) -> None:
        def change(run: TrainingRun) -> TrainingRun:
            if number <= run.let_in:
                return run
            return run.with_open_gate(number, decision, now=self._clock())

        self._update(run_id, change)

    def _note_told(self, run_id: str) -> None:
        def change(run: TrainingRun) -> TrainingRun:
            told = run.state is State.PAUSING and run.pause
            return replace(run, pause=replace(told, told=True)) if told else run

        self._update(run_id, change)

    def _move(
        self, run_id: str, state: State, message: str, *, waiting_since: datetime | None = None
    ) -> None:
        def change(run: TrainingRun) -> TrainingRun:
            moved = run.moved(state, message, now=self._clock())
            return replace(moved, waiting_since=run.waiting_since or waiting_since)

        self._update(run_id, change)

    def _update(self, run_id: str, change: Change) -> TrainingRun:
        run = self._store.update_run(run_id, change)
        self._changes.notify(run_id)
        return run
