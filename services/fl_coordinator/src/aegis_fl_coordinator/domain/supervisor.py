"""Moves each run on: waits for nodes, submits it to Flower, watches it there, publishes its model."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import secrets
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Final

from aegis_common.clock import Clock
from aegis_common.errors import RETRYABLE, AegisError, ErrorKind
from aegis_fl_coordinator.domain.admission import Change
from aegis_fl_coordinator.domain.apps import Apps
from aegis_fl_coordinator.domain.changes import Changes
from aegis_fl_coordinator.domain.errors import AppNotApproved, RunEnded, RunFailed
from aegis_fl_coordinator.domain.nodes import virtual_nodes
from aegis_fl_coordinator.domain.ports import (
    Engine,
    EngineState,
    EngineStatus,
    ModelPublisher,
    RunEngine,
    RunFolders,
    RunStore,
)
from aegis_fl_coordinator.domain.registry import NodeRegistry
from aegis_fl_coordinator.domain.run import TRAINING, ConfigValue, EngineKind, State, TrainingRun
from aegis_fl_coordinator.domain.training import token_digest

_log: Final = logging.getLogger(__name__)
_RUN_KEY: Final = "aegis-run"
_LOOK: Final = timedelta(seconds=1)
_CUT_OFF: Final = "the training app failed, or was cut off when SuperLink stopped; Flower gives no details"
_SUBMISSIONS: Final = 3
"""How often a run may be cut off and submitted again without finishing a round in between."""
_SHOWS_TROUBLE: Final = frozenset(
    {State.PENDING, State.WAITING_FOR_NODES, State.PUBLISHING, State.CANCELLING, State.PAUSING}
)
_RETRYABLE: Final = RETRYABLE | {ErrorKind.DEADLINE_EXCEEDED, ErrorKind.ABORTED}


class Supervisor:
    """One task per run that has not ended; after a restart each goes on from what is stored."""

    def __init__(
        self,
        *,
        store: RunStore,
        engine: Engine,
        in_process: RunEngine,
        apps: Apps,
        nodes: NodeRegistry,
        folders: RunFolders,
        publisher: ModelPublisher,
        changes: Changes,
        clock: Clock,
        look: timedelta = _LOOK,
    ) -> None:
        self._store = store
        self._engines = {EngineKind.DEPLOYMENT: engine, EngineKind.IN_PROCESS: in_process}
        self._apps = apps
        self._nodes = nodes
        self._folders = folders
        self._publisher = publisher
        self._changes = changes
        self._clock = clock
        self._look = look
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def adopt(self) -> None:
        """Take care of every run that goes on."""
        for run in self._store.active_runs():
            self.watch(run.run_id)

    def watch(self, run_id: str) -> None:
        """Take care of a run, unless that is done already."""
        if run_id in self._tasks:
            return
        # An empty context: the work outlives the call that asked for it, and its identity.
        task = asyncio.get_running_loop().create_task(self._drive(run_id), context=contextvars.Context())
        self._tasks[run_id] = task
        task.add_done_callback(lambda task: self._done(run_id, task))

    def _done(self, run_id: str, task: asyncio.Task[None]) -> None:
        self._tasks.pop(run_id, None)
        # It may have been resumed while the last step was being taken.
        if not task.cancelled() and not _at_rest(self._store.find_run(run_id)):
            self.watch(run_id)

    async def close(self) -> None:
        """Stop looking after runs; they go on in Flower and are adopted at the next start."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _drive(self, run_id: str) -> None:
        while not _at_rest(run := self._store.find_run(run_id)):
            try:
                await self._step(run)
            except RunEnded:
                continue  # somebody moved the run meanwhile: look again
            except AegisError as error:
                self._on_error(run, error)
            except Exception:
                _log.exception("run %s: unforeseen error", run.name)
                self._fail(run, "internal error of the coordinator; its log has the details")
            if not _at_rest(self._store.find_run(run_id)):
                await self._changes.wait(run_id, at_most=self._look)
        await self._close(run)

    async def _step(self, run: TrainingRun) -> None:
        if run.state is State.CANCELLING:
            await self._cancel(run)
        elif run.state is State.PAUSING:
            await self._pause(run)
        elif run.state is State.PUBLISHING:
            await self._publish(run)
        elif run.engine_run is None:
            await self._submit(run)
        else:
            await self._follow(run, await self._engine(run).status(run.engine_run))

    async def _submit(self, run: TrainingRun) -> None:
        engine_run = await self._find(run)
        if engine_run is None:
            online = run.spec.virtual_nodes or await self._nodes.online(run)
            # Where all rounds are done, nothing but the export is left.
            if online < run.spec.min_nodes and len(run.rounds) < run.spec.rounds:
                self._move(run, State.WAITING_FOR_NODES, self._nodes.missing(online, run))
                return
            engine_run = await self._start(run)

        def change(run: TrainingRun) -> TrainingRun:
            noted = replace(run, engine_run=engine_run, submissions=run.submissions + 1)
            if run.state not in (State.PENDING, State.WAITING_FOR_NODES):
                return noted  # the app was quicker, or somebody stops the run
            return noted.moved(State.PENDING, "the training app is starting", now=self._clock())

        self._update(run, change)

    async def _find(self, run: TrainingRun) -> int | None:
        """Return the engine's run where a coordinator died between submitting it and noting that."""
        if not run.token_sha256:
            return None
        found = await self._engine(run).find_run(_RUN_KEY, run.run_id)
        return None if found == run.given_up else found

    async def _start(self, run: TrainingRun) -> int:
        app = await self._apps.get(run.tenant, run.spec.app)
        if app.sha256 != run.app_sha256:
            raise AppNotApproved(f"app {app.name!r} changed after {run.name} was created", app=app.name)
        token = secrets.token_urlsafe(32)
        self._update(run, lambda run: replace(run, token_sha256=token_digest(token)))
        self._folders.prepare(run, token=token, nodes=self._names(run))
        config: dict[str, ConfigValue] = {**run.spec.config, _RUN_KEY: run.run_id}
        return await self._engine(run).start_run(app.bundle, config)

    async def _follow(self, run: TrainingRun, status: EngineStatus) -> None:
        if self._store.find_run(run.run_id).state not in TRAINING:
            return  # to be paused or stopped since: what the app did then is no failure
        if status.state is EngineState.ACTIVE:
            self._folders.prepare(run, token=None, nodes=self._names(run))
        elif status.state is EngineState.LOST:
            self._submit_again(run, status)
        elif status.state is not EngineState.COMPLETED or len(run.rounds) < run.spec.rounds:
            self._fail(run, _ended(status, run))
        elif run.spec.model:
            self._move(run, State.PUBLISHING, "exporting, signing and publishing the model")
        else:
            self._move(
                run, State.SUCCEEDED, f"{run.spec.rounds} rounds are done; nothing was to be published"
            )

    async def _pause(self, run: TrainingRun) -> None:
        engine_run = await self._find(run) if run.engine_run is None else run.engine_run
        if engine_run is not None:
            status = await self._engine(run).status(engine_run)
            now = self._store.find_run(run.run_id)
            if now.under_way and now.pause and not (now.pause.immediate or now.pause.told):
                if status.state is EngineState.ACTIVE:
                    self._folders.prepare(run, token=None, nodes=self._names(run))
                    return
                if status.state is not EngineState.LOST:
                    self._fail(run, _ended(status, run))
                    return
            await self._engine(run).stop_run(engine_run)
        self._update(run, lambda run: run.paused(engine_run, now=self._clock()))

    def _submit_again(self, run: TrainingRun, status: EngineStatus) -> None:
        if run.submissions >= _SUBMISSIONS:
            self._fail(run, f"the run was cut off {run.submissions} times without a round: {status.details}")
            return
        message = f"cut off, and goes on after round {len(run.rounds)}: {status.details}"
        _log.warning("run %s %s", run.name, message)

        def change(run: TrainingRun) -> TrainingRun:
            return replace(run.moved(State.PENDING, message, now=self._clock()), engine_run=None)

        self._update(run, change)

    async def _publish(self, run: TrainingRun) -> None:
        exported = await asyncio.to_thread(self._folders.export, run)
        if exported is None:
            raise RunFailed(f"app {run.spec.app!r} exported no model", app=run.spec.app)
        version = await self._publisher.publish(run, exported)

        def change(run: TrainingRun) -> TrainingRun:
            moved = run.moved(State.SUCCEEDED, f"{version} is served", now=self._clock())
            return replace(moved, model_version=version)

        self._update(run, change)

    async def _cancel(self, run: TrainingRun) -> None:
        engine_run = await self._find(run) if run.engine_run is None else run.engine_run
        if engine_run is not None:
            await self._engine(run).stop_run(engine_run)
        self._move(run, State.CANCELLED, "stopped on request")

    async def _close(self, run: TrainingRun) -> None:
        if run.ended:
            _log.info("run ended", extra={"run": run.name, "state": run.state.value})
        await asyncio.to_thread(self._folders.close, run)

    def _engine(self, run: TrainingRun) -> RunEngine:
        return self._engines[run.spec.engine]

    def _names(self, run: TrainingRun) -> Mapping[int, str]:
        """Return the engine's id of each node that may take part, to its resource name."""
        if run.spec.engine is EngineKind.IN_PROCESS:
            return virtual_nodes(run.spec.virtual_nodes)
        return self._nodes.names(run)

    def _on_error(self, run: TrainingRun, error: AegisError) -> None:
        if error.kind in _RETRYABLE:
            _log.warning("run %s: %s; trying again", run.name, error.message)
            if run.state in _SHOWS_TROUBLE:
                self._move(run, run.state, f"trying again: {error.message}")
            return
        self._fail(run, error.message)

    def _fail(self, run: TrainingRun, message: str) -> None:
        try:
            self._move(run, State.FAILED, message)
        except RunEnded:
            _log.warning("run %s could not be marked as failed: %s", run.name, message)

    def _move(self, run: TrainingRun, state: State, message: str) -> None:
        self._update(run, lambda run: run.moved(state, message, now=self._clock()))

    def _update(self, run: TrainingRun, change: Change) -> None:
        self._store.update_run(run.run_id, change)
        self._changes.notify(run.run_id)


def _at_rest(run: TrainingRun) -> bool:
    return run.ended or run.state is State.PAUSED


def _ended(status: EngineStatus, run: TrainingRun) -> str:
    """Return why an app that does not run any more has not done its work."""
    if status.state is EngineState.STOPPED:
        return "stopped from outside the coordinator"
    if status.state is EngineState.FAILED:
        return f"the training app failed: {status.details}" if status.details else _CUT_OFF
    return f"the training app ended after {len(run.rounds)} of {run.spec.rounds} rounds"
