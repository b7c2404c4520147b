"""Entry point: read settings, wire adapters to the domain, serve."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Final

from aegis.carbon.v1 import carbon_service_pb2_grpc as carbon_grpc
from aegis.carbon.v1 import ledger_service_pb2_grpc as ledger_grpc
from aegis.carbon.v1 import plan_service_pb2_grpc as plan_grpc
from aegis.carbon.v1 import reservation_service_pb2_grpc as reservation_grpc
from aegis_carbon.adapters.ledger_servicer import LedgerServicer
from aegis_carbon.adapters.plan_servicer import PlanServicer
from aegis_carbon.adapters.reservation_servicer import ReservationServicer
from aegis_carbon.adapters.servicer import CarbonServicer
from aegis_carbon.ledger import ledger_of
from aegis_carbon.reservations import reservations_of
from aegis_carbon.settings import Settings
from aegis_carbon.wiring import Carbon, carbon
from aegis_common.clock import Clock, utc_now
from aegis_common.logs import setup_logging
from aegis_common.rpc.server import Running, run_main, serving, until_signalled
from aegis_common.settings import load
from aegis_common.telemetry import setup_telemetry

NAME: Final = "carbon"


@asynccontextmanager
async def running(settings: Settings, *, clock: Clock = utc_now) -> AsyncIterator[Running]:
    """Serve until the block ends, then drain; a provider that is away does not make the service unready.

    Raises:
        ConfigurationError: A setting, file or address cannot be used.
    """
    setup_logging(NAME, settings.log_level)
    telemetry = setup_telemetry(NAME, settings.otlp_endpoint)
    async with AsyncExitStack() as stack:
        stack.callback(telemetry.shutdown)
        built = await stack.enter_async_context(carbon(settings, clock=clock, meter=telemetry.meter))
        await stack.enter_async_context(_kept_warm(built, settings))
        servicer = CarbonServicer(built.advisor, built.resolver, clock=clock)
        planner = PlanServicer(built.planning)
        opened = await stack.enter_async_context(ledger_of(built, settings, meter=telemetry.meter))
        ledger = LedgerServicer(
            opened.ledger if opened else None, opened.store if opened else None, clock=clock
        )
        door = await stack.enter_async_context(reservations_of(built, settings, meter=telemetry.meter))
        yield await stack.enter_async_context(
            serving(
                settings,
                name=NAME,
                add=[
                    (carbon_grpc.add_CarbonServiceServicer_to_server, servicer),
                    (plan_grpc.add_PlanServiceServicer_to_server, planner),
                    (ledger_grpc.add_LedgerServiceServicer_to_server, ledger),
                    (
                        reservation_grpc.add_ReservationServiceServicer_to_server,
                        ReservationServicer(door),
                    ),
                ],
                telemetry=telemetry,
            )
        )


@asynccontextmanager
async def _kept_warm(built: Carbon, settings: Settings) -> AsyncIterator[None]:
    task = asyncio.create_task(built.lookup.keep_warm(every=settings.refresh))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _serve() -> None:
    async with running(load(Settings)):
        await until_signalled()


def main() -> None:
    run_main(_serve)
