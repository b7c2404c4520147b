"""Creates, finds and stops runs for their owners."""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

from aegis_common.clock import Clock
from aegis_fl_coordinator.domain.apps import Apps
from aegis_fl_coordinator.domain.changes import Changes
from aegis_fl_coordinator.domain.errors import CarbonUnavailable, InvalidRunConfig, RunNotResumable
from aegis_fl_coordinator.domain.evaluation import check_evaluation
from aegis_fl_coordinator.domain.gate import CarbonGate
from aegis_fl_coordinator.domain.ports import AppBundle, RunStore
from aegis_fl_coordinator.domain.privacy import check_privacy
from aegis_fl_coordinator.domain.rounds import RoundReport
from aegis_fl_coordinator.domain.run import ConfigValue, EngineKind, RunSpec, State, TrainingRun
from aegis_fl_coordinator.domain.strategies import checked

RESERVED_KEYS: Final = frozenset({"aegis-run"})
_MOST_OUTCOMES: Final = 20_000
"""Nodes of all rounds that are returned at once: an answer has a size."""
_PATIENCE: Final = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class Creator:
    """Who creates a run: tenant, subject, the stored principal record, and the trace it is created in."""

    tenant: str
    subject: str
    principal: str
    traceparent: str


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a run gets that names no number of rounds (1 to 10000), nodes (1 to 10000), or retention."""

    rounds: int
    min_nodes: int
    retention: timedelta


class Training:
    """The runs of all tenants; every method sees one tenant only."""

    def __init__(
        self,
        *,
        store: RunStore,
        apps: Apps,
        gate: CarbonGate,
        changes: Changes,
        clock: Clock,
        defaults: Defaults,
        check_in_process: Callable[[], None],
    ) -> None:
        self._store = store
        self._apps = apps
        self._gate = gate
        self._changes = changes
        self._clock = clock
        self._defaults = defaults
        self._check_in_process = check_in_process

    async def create(self, spec: RunSpec, *, creator: Creator, request_id: str, asked: str) -> TrainingRun:
        """Accept a run, or return the one that came with *request_id* before.

        Args:
            spec: What is asked for; 0 rounds or nodes means the default.
            creator: Who asks.
            request_id: Idempotency key, or empty.
            asked: Canonical text of the request, to tell a repeat from another run.

        Raises:
            UnknownApp: No such app is installed.
            AppNotApproved: Its digest is not approved.
            InvalidRunConfig: A key is not one of the app's, or its value is of another type; or the
                aggregation cannot be, or not with so few nodes; or its privacy cannot be kept, or its
                evaluation would break it.
            EngineNotEnabled: Runs in process are not allowed here.
            UnknownZone: Its carbon policy names a zone that does not exist.
            RequestIdReused: The id came with another request before.
        """
        spec.carbon.check()
        app = await self._apps.get(creator.tenant, spec.app)
        spec = replace(
            with_nodes(spec, default=self._defaults.min_nodes),
            rounds=spec.rounds or self._defaults.rounds,
            config=checked_config(spec.config, app),
            retention=spec.retention or self._defaults.retention,
        )
        spec = replace(spec, aggregation=checked(spec.aggregation, nodes=spec.min_nodes))
        check_privacy(spec.aggregation, spec.privacy, rounds=spec.rounds)
        check_evaluation(spec.evaluation, spec.aggregation, spec.privacy)
        if spec.engine is EngineKind.IN_PROCESS:
            self._check_in_process()
        await self._check_zone(spec, creator)
        now = self._clock()
        run = TrainingRun(
            tenant=creator.tenant,
            run_id=f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(6)}",
            spec=spec,
            state=State.PENDING,
            message="accepted",
            creator=creator.subject,
            principal=creator.principal,
            traceparent=creator.traceparent,
            app_sha256=app.sha256,
            token_sha256="",
            create_time=now,
        )
        return self._store.create_run(run, request_id=request_id, asked=asked)

    async def _check_zone(self, spec: RunSpec, creator: Creator) -> None:
        """Ask about the policy's zone, so that a wrong one is told at once; the answer does not count."""
        policy = spec.carbon
        if not policy.zone:
            return
        now = self._clock()
        try:
            await self._gate.check(
                policy,
                zone=policy.zone,
                duration=policy.round_duration(()),
                latest=policy.latest_start(now, ())[0],
                principal=creator.principal,
                traceparent=creator.traceparent,
            )
        except CarbonUnavailable:
            return  # every round asks again

    def get(self, tenant: str, run_id: str) -> TrainingRun:
        """Return a run.

        Raises:
            UnknownTrainingRun: The tenant has no such run.
        """
        return self._store.get_run(tenant, run_id)

    def list(self, tenant: str) -> list[TrainingRun]:
        """Return the tenant's runs, newest first."""
        return self._store.list_runs(tenant)

    def rounds(
        self, tenant: str, run_id: str, *, after: int, most: int
    ) -> tuple[Sequence[RoundReport], bool]:
        """Return some rounds of a run with all that is known of them, and whether there are more.

        Args:
            tenant: Owner of the run.
            run_id: The part after `trainingRuns/`.
            after: Number of the round that they begin after; 0 for the first one.
            most: Most of them; where their nodes are many there are fewer. Range: 1 and up.

        Raises:
            UnknownTrainingRun: The tenant has no such run.
        """
        self._store.get_run(tenant, run_id)
        found = self._store.rounds(run_id, after=after, most=most + 1)
        kept, nodes = 0, 0
        for report in found[:most]:
            nodes += len(report.outcomes)
            if kept and nodes > _MOST_OUTCOMES:
                break
            kept += 1
        return found[:kept], len(found) > kept

    def cancel(self, tenant: str, run_id: str) -> TrainingRun:
        """Ask for a run to be stopped; one that has ended stays as it is.

        Raises:
            UnknownTrainingRun: The tenant has no such run.
        """
        self._store.get_run(tenant, run_id)
        return self._cancel(run_id, "being stopped on request")

    def cancel_all(self, tenant: str, *, app: str, app_sha256: str) -> Sequence[TrainingRun]:
        """Ask for the tenant's runs of an app that may run no more to be stopped, and return them."""
        return [
            self._cancel(run.run_id, f"being stopped: the approval of app {app!r} was revoked")
            for run in self._store.active_runs()
            if (run.tenant, run.spec.app, run.app_sha256) == (tenant, app, app_sha256)
        ]

    def _cancel(self, run_id: str, message: str) -> TrainingRun:
        def change(run: TrainingRun) -> TrainingRun:
            return run if run.stopping else run.moved(State.CANCELLING, message, now=self._clock())

        run = self._store.update_run(run_id, change)
        self._changes.notify(run_id)
        return run

    def pause(self, tenant: str, run_id: str, *, requester: str, immediate: bool) -> TrainingRun:
        """Ask for a run to be paused, after the round under way or at once.

        Raises:
            UnknownTrainingRun: The tenant has no such run.
            RunNotPausable: It trains no more, or is to be stopped.
        """
        self._store.get_run(tenant, run_id)

        def change(run: TrainingRun) -> TrainingRun:
            return run.pausing(requester, immediate=immediate, now=self._clock())

        run = self._store.update_run(run_id, change)
        self._changes.notify(run_id)
        return run

    async def resume(self, tenant: str, run_id: str, *, requester: str) -> TrainingRun:
        """Let a run go on from its newest checkpoint; one whose app is ending for a pause, after that.

        Raises:
            UnknownTrainingRun: The tenant has no such run.
            RunNotResumable: It has succeeded, is or was to be stopped, or its pause does not begin.
        """
        end = self._clock() + _PATIENCE
        while True:
            run = self._store.get_run(tenant, run_id)
            try:
                run = self._store.update_run(run_id, lambda run: run.resumed(requester))
            except RunNotResumable:
                left = end - self._clock()
                if run.state is not State.PAUSING or left <= timedelta(0):
                    raise
                await self._changes.wait(run_id, at_most=left)
            else:
                self._changes.notify(run_id)
                return run


def with_nodes(spec: RunSpec, *, default: int) -> RunSpec:
    """Return *spec* with its numbers of nodes filled in.

    Raises:
        InvalidRunConfig: They do not fit the engine.
    """
    field = "training_run.virtual_nodes"
    if spec.engine is EngineKind.DEPLOYMENT:
        if spec.virtual_nodes:
            fault = "a run at the sites has no virtual nodes; choose engine ENGINE_IN_PROCESS"
            raise InvalidRunConfig(
                f"virtual_nodes is {spec.virtual_nodes}: {fault}", violations={field: fault}
            )
        return replace(spec, min_nodes=spec.min_nodes or default)
    if spec.nodes:
        fault = "the nodes of a run in process are virtual: they have neither zone nor labels"
        raise InvalidRunConfig(f"node_selector: {fault}", violations={"training_run.node_selector": fault})
    nodes = spec.virtual_nodes or spec.min_nodes or default
    if spec.min_nodes > nodes:
        fault = f"is {nodes}, fewer than min_nodes {spec.min_nodes}"
        raise InvalidRunConfig(f"virtual_nodes {fault}", violations={field: fault})
    # Virtual nodes are always there, so all of them count.
    return replace(spec, virtual_nodes=nodes, min_nodes=nodes)


def checked_config(config: Mapping[str, ConfigValue], app: AppBundle) -> dict[str, ConfigValue]:
    """Return *config* with each value in the type that the app declares.

    Raises:
        InvalidRunConfig: Names each key that the app does not declare or whose value does not fit.
    """
    faults: dict[str, str] = {}
    checked: dict[str, ConfigValue] = {}
    for key, value in config.items():
        if key not in app.config or key in RESERVED_KEYS:
            known = ", ".join(sorted(app.config.keys() - RESERVED_KEYS))
            faults[f"training_run.app_config.{key}"] = f"not one of {known}"
            continue
        converted = _converted(value, app.config[key])
        if converted is None:
            wanted = type(app.config[key]).__name__
            faults[f"training_run.app_config.{key}"] = f"{value!r} is no {wanted}"
        else:
            checked[key] = converted
    if faults:
        text = "; ".join(f"{key.rsplit('.', 1)[-1]}: {fault}" for key, fault in faults.items())
        raise InvalidRunConfig(f"app_config does not fit app {app.name!r}: {text}", violations=faults)
    return checked


def _converted(value: ConfigValue, default: ConfigValue) -> ConfigValue | None:
    if isinstance(default, bool) or isinstance(value, bool):
        return value if isinstance(default, bool) and isinstance(value, bool) else None
    if isinstance(default, str) or isinstance(value, str):
        return value if isinstance(default, str) and isinstance(value, str) else None
    if isinstance(default, int):
        # JSON numbers come as floats; Flower wants 64 bits.
        return int(value) if math.isfinite(value) and value == int(value) and abs(value) < 2**53 else None
    return float(value)


def token_digest(token: str) -> str:
    """Return what is stored of a run's token."""
    return hashlib.sha256(token.encode()).hexdigest()
