"""Puts the parts of durable jobs together."""

from __future__ import annotations

import asyncio
import logging
import platform
import re
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

import grpc.aio

from aegis_agent.adapters.jobs.carbon import GrpcCarbon
from aegis_agent.adapters.jobs.connection import TIMEOUT_S, Connection, connect
from aegis_agent.adapters.jobs.effects import Bounds
from aegis_agent.adapters.jobs.hold_post import HoldPost
from aegis_agent.adapters.jobs.housekeeper import Housekeeper
from aegis_agent.adapters.jobs.metrics import JobMetrics
from aegis_agent.adapters.jobs.queue import RunnerQueue
from aegis_agent.adapters.jobs.reservations import GrpcReservations
from aegis_agent.adapters.jobs.runner import JobRunner
from aegis_agent.adapters.jobs.servicer import JobDoor
from aegis_agent.adapters.jobs.signals import Signals
from aegis_agent.adapters.jobs.store import RedisJobStore
from aegis_agent.adapters.jobs.usage import Accounts
from aegis_agent.adapters.jobs.usage_post import JobUsagePost
from aegis_agent.adapters.jobs.watch import JobWatcher
from aegis_agent.adapters.jobs.work import Bench
from aegis_agent.domain.dispatch import Dispatcher
from aegis_agent.domain.fair_queue import Weights
from aegis_agent.domain.jobs.errors import JobStoreUnavailable
from aegis_agent.domain.jobs.ports import KeptArtifacts
from aegis_agent.domain.jobs.service import Jobs, Limits
from aegis_agent.domain.registry import Registry
from aegis_common.background import Every, ended
from aegis_common.clock import Clock, utc_now
from aegis_common.errors import ConfigurationError
from aegis_common.ledger import GrpcLedger
from aegis_common.telemetry import Telemetry

_FIRST_TRY_S: Final = 5.0
_PAUSE_S: Final = 0.5
_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOptions:
    """What an operator sets about jobs.

    Attributes:
        url: Of the Redis that keeps them.
        strict: Refuse a Redis that may lose what it has acknowledged.
        slots: Most jobs that run at once in this process; 0 runs none.
        lease: How long a job may go without a sign of life of its runner.
        keep: How long an ended job is kept.
        grace: How long running jobs may go on when the agent is stopped.
        bounds: Of the jobs of one tenant.
        weights: Shares of tenants where jobs wait.
        payload_bytes: Most bytes of a payload.
        result_bytes: Most bytes of a result; what is beyond becomes artifacts.
        instance: Name of this process for people; the host's if empty.
        zone: `zones/{zone}` in which jobs run, or empty for the carbon service's default.
        report: Pause between two reports of what jobs used.
    """

    url: str
    strict: bool = True
    slots: int = 4
    lease: timedelta = timedelta(seconds=12)
    keep: timedelta = timedelta(days=7)
    grace: timedelta = timedelta(seconds=10)
    bounds: Bounds = Bounds(unfinished=100_000, ended=100_000, bytes=1 << 30)
    weights: Weights = field(default_factory=dict)
    payload_bytes: int = 1 << 20
    result_bytes: int = 1 << 20
    instance: str = ""
    zone: str = ""
    report: timedelta = timedelta(seconds=15)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningJobs:
    """Jobs that are being worked off; `begin_drain` ends that, and the context waits for the end."""

    door: JobDoor
    runner: JobRunner
    store: RedisJobStore

    def begin_drain(self) -> None:
        """Take no more jobs, and let those in hand finish."""
        self.runner.begin_drain()


@asynccontextmanager
async def running_jobs(
    options: JobOptions,
    *,
    registry: Registry,
    dispatcher: Dispatcher,
    carbon: grpc.aio.Channel | None,
    telemetry: Telemetry,
    artifacts: KeptArtifacts | None = None,
    clock: Clock = utc_now,
) -> AsyncIterator[RunningJobs]:
    """Work off jobs while the block runs; on the way out the runner drains.

    Where Redis does not answer at first, jobs are taken as soon as it does.

    Raises:
        ConfigurationError: Redis answers, and may lose what it has acknowledged.
    """
    async with AsyncExitStack() as stack:
        client = connect(options.url)
        stack.push_async_callback(client.aclose)
        connection = Connection(client, slow_s=min(TIMEOUT_S, options.lease.total_seconds() / 2))
        accounts = Accounts(options.zone) if carbon is not None else None
        store = RedisJobStore(connection, bounds=options.bounds, accounts=accounts)
        name = _name(options.instance)
        gate = GrpcCarbon(carbon, clock=clock) if carbon is not None else None
        reservations = GrpcReservations(carbon, clock=clock) if carbon is not None else None
        queue = RunnerQueue(store, runner=name, lease=options.lease, weights=options.weights)
        bench = Bench(
            store=store,
            queue=queue,
            dispatcher=dispatcher,
            clock=clock,
            runner=name,
            keep=options.keep,
            result_bytes=options.result_bytes,
            artifacts=artifacts,
        )
        runner = JobRunner(bench, slots=options.slots, lease=options.lease, grace=options.grace)
        ready = await _checked(connection, strict=options.strict)
        signals = await stack.enter_async_context(Signals(client, on_cancel=runner.cancelled))
        housekeeper = Housekeeper(
            store,
            RunnerQueue(store, runner=f"{name}-keeper", lease=options.lease),
            carbon=gate,
            reservations=reservations,
            tell=HoldPost(store, carbon).send if carbon is not None else None,
            clock=clock,
            holder=name,
            lease=options.lease,
            keep=options.keep,
        )
        await stack.enter_async_context(housekeeper)
        if carbon is not None:
            post = JobUsagePost(store, GrpcLedger(carbon, subject="agent"))
            await stack.enter_async_context(Every(options.report, post.send, name="usage of jobs"))
        await stack.enter_async_context(runner)
        if not ready:
            late = asyncio.create_task(
                _check_later(connection, strict=options.strict), name="job store check"
            )
            stack.push_async_callback(ended, late)
        runner.start(signals)
        await stack.enter_async_context(JobMetrics(store, runner, telemetry).counting())
        limits = Limits(keep=options.keep, payload_bytes=options.payload_bytes)
        door = JobDoor(
            jobs=Jobs(
                store, carbon=gate, reservations=reservations, clock=clock, limits=limits, artifacts=artifacts
            ),
            watcher=JobWatcher(store, signals, clock=clock),
            registry=registry,
        )
        yield RunningJobs(door=door, runner=runner, store=store)


async def _checked(connection: Connection, *, strict: bool) -> bool:
    """Check Redis; return False when it does not answer for a while.

    Raises:
        ConfigurationError: It may lose what it has acknowledged.
    """
    loop = asyncio.get_running_loop()
    give_up = loop.time() + _FIRST_TRY_S
    while True:
        try:
            await connection.check(strict=strict)
        except JobStoreUnavailable as error:
            if loop.time() > give_up:
                _log.error("jobs are not taken yet: %s", error.message)
                return False
            await asyncio.sleep(_PAUSE_S)
        else:
            return True


async def _check_later(connection: Connection, *, strict: bool) -> None:
    while True:
        try:
            await connection.check(strict=strict)
        except (JobStoreUnavailable, ConfigurationError) as error:
            _log.error("jobs are not taken yet: %s", error.message)
            await asyncio.sleep(_FIRST_TRY_S)
        else:
            _log.info("the job store answers; jobs are taken")
            return


def _name(instance: str) -> str:
    host = instance or re.sub(r"[^a-zA-Z0-9.-]", "-", platform.node())[:63] or "agent"
    return f"{host}-{secrets.token_hex(4)}"
