"""Entry point of `aegis-carbon-controller`: read settings, wire adapters to the domain, run."""

from __future__ import annotations

import asyncio
import logging
import platform
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

from aegis_carbon.controller.adapters.carbon import GrpcReservations
from aegis_carbon.controller.adapters.client import KubeClient
from aegis_carbon.controller.adapters.jobs import KubeJobs
from aegis_carbon.controller.adapters.leases import KubeLease
from aegis_carbon.controller.adapters.metrics import ControllerMetrics
from aegis_carbon.controller.adapters.reflector import Reflector
from aegis_carbon.controller.domain.bookings import Bookings
from aegis_carbon.controller.domain.case import Rules
from aegis_carbon.controller.domain.controller import Controller
from aegis_carbon.controller.domain.election import Election
from aegis_carbon.controller.domain.job import JobStore
from aegis_carbon.controller.domain.tenants import Tenants
from aegis_carbon.controller.settings import ControllerSettings
from aegis_common.background import ended
from aegis_common.clock import Clock, utc_now
from aegis_common.logs import setup_logging
from aegis_common.rpc.channel import mesh_channel
from aegis_common.rpc.gauges import observe_certificates
from aegis_common.rpc.ops import ops_server
from aegis_common.rpc.server import run_main, until_signalled
from aegis_common.settings import load
from aegis_common.telemetry import setup_telemetry
from aegis_common.tls import IdentityFiles

NAME: Final = "carbon-controller"
_LOOK_S: Final = 1.0
"""Longest pause between two looks at what is due: a clock that was set costs no more."""
_RENEWALS: Final = 5
"""Renewals of the Lease within its time."""
_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Running:
    """A controller at work.

    Attributes:
        ops_port: Port of the metrics and readiness listener.
        leading: Whether it leads now.
        synced: Whether it has seen every Job.
    """

    ops_port: int
    leading: Callable[[], bool]
    synced: Callable[[], bool]


@asynccontextmanager
async def running(
    settings: ControllerSettings,
    *,
    clock: Clock = utc_now,
    elapsed: Callable[[], float] = time.monotonic,
) -> AsyncIterator[Running]:
    """Run until the block ends, then give up the Lease.

    Raises:
        ConfigurationError: A setting, file or address cannot be used.
    """
    setup_logging(NAME, settings.log_level)
    async with AsyncExitStack() as stack:
        telemetry = setup_telemetry(NAME, settings.otlp_endpoint)
        stack.callback(telemetry.shutdown)
        observe_certificates(telemetry, IdentityFiles.of(settings.tls))
        client = await stack.enter_async_context(
            KubeClient.open(settings.server, ca=settings.api_ca, token=settings.api_token)
        )
        channel = await stack.enter_async_context(
            mesh_channel(settings.carbon, service="carbon", tls=settings.tls, telemetry=telemetry)
        )
        identity = f"{platform.node()}_{secrets.token_hex(8)}"
        lease = KubeLease(client, namespace=settings.home, name=settings.lease_name)
        election = Election(lease, identity, lasts=settings.lease_duration, clock=clock, elapsed=elapsed)
        tenants = Tenants(settings.namespaces)
        store = JobStore(tenants.scopes)
        jobs = KubeJobs(client, instance=platform.node(), clock=clock)
        reservations = GrpcReservations(channel, cluster=settings.cluster)
        bookings = Bookings(reservations, store, jobs, tenants=tenants, leading=election.leading)
        controller = Controller(
            store,
            jobs,
            bookings,
            tenants=tenants,
            rules=Rules(pod_start=settings.pod_start, grace=settings.grace),
            leading=election.leading,
            clock=clock,
            elapsed=elapsed,
            observer=ControllerMetrics(
                telemetry.meter,
                store,
                leading=election.leading,
                reachable=lambda: bookings.reachable,
            ),
        )
        renew_s = settings.lease_duration.total_seconds() / _RENEWALS
        loops = {
            "election": _loop(election.turn, asyncio.Event(), lambda: renew_s),
            "controller": _loop(controller.turn, store.wake, lambda: controller.idle_s(_LOOK_S)),
            "bookings": _loop(bookings.turn, bookings.wake, settings.poll.total_seconds),
            **{
                f"jobs of {scope or 'all'}": Reflector(client, scope, store).run() for scope in tenants.scopes
            },
        }
        tasks = [asyncio.create_task(work, name=name) for name, work in loops.items()]
        stack.push_async_callback(election.resign)
        stack.push_async_callback(ended, *tasks)
        ops_port = stack.enter_context(
            ops_server(
                settings.ops_listen, metrics=telemetry.metrics_text, ready=lambda: _ready(store, tasks)
            )
        )
        _log.info("running", extra={"ops_port": ops_port, "identity": identity})
        yield Running(ops_port, election.leading, lambda: store.synced)


def _ready(store: JobStore, tasks: list[asyncio.Task[None]]) -> bool:
    return store.synced and not any(task.done() for task in tasks)


async def _loop(
    turn: Callable[[], Awaitable[None]], wake: asyncio.Event, pause_s: Callable[[], float]
) -> None:
    """Take one turn after another, the next when it is woken or after a pause; no failure ends it."""
    while True:
        try:
            await turn()
        except Exception:
            _log.exception("a turn failed")
            await asyncio.sleep(_LOOK_S)
        with suppress(TimeoutError):
            async with asyncio.timeout(pause_s()):
                await wake.wait()


async def _run() -> None:
    async with running(load(ControllerSettings)):
        await until_signalled()


def main() -> None:
    run_main(_run)
