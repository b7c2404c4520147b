"""Calls of ReservationService that tests make."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from aegis.carbon.v1 import plan_service_pb2 as plan_pb
from aegis.carbon.v1 import reservation_service_pb2 as pb
from aegis.carbon.v1 import reservation_service_pb2_grpc as pb_grpc
from aegis_carbon.testing.clock import ManualClock
from aegis_common.rpc.times import duration, timestamp

DAY: Final = "zones/demo-day"
HOUR: Final = timedelta(hours=1)


def wanted(
    clock: ManualClock, *, hours: float = 1, within: float = 20, zone: str = DAY, **fields: Any
) -> pb.Reservation:
    """Return hours of work that end within others; with *split* it may be suspended after half an hour."""
    job = plan_pb.PlannedJob(
        zones=[zone], duration=duration(hours * HOUR), deadline=timestamp(clock.now + within * HOUR)
    )
    if fields.pop("split", False):
        job.interruption.min_chunk.CopyFrom(duration(HOUR / 2))
    return pb.Reservation(job=job, **fields)


async def create(
    stub: pb_grpc.ReservationServiceAsyncStub, asked: pb.Reservation, request_id: str = "", **call: Any
) -> pb.Reservation:
    request = pb.CreateReservationRequest(reservation=asked, request_id=request_id)
    return (await stub.CreateReservation(request, **call)).reservation


async def get(stub: pb_grpc.ReservationServiceAsyncStub, name: str) -> pb.Reservation:
    return (await stub.GetReservation(pb.GetReservationRequest(name=name))).reservation


def moment(found: Any) -> datetime:
    return found.ToDatetime(tzinfo=UTC)  # type: ignore[no-any-return]


async def state_of(stub: pb_grpc.ReservationServiceAsyncStub, name: str, wanted: int) -> pb.Reservation:
    """Return the reservation as soon as it is in a state: the timer works in the background."""
    async with asyncio.timeout(20):
        while (found := await get(stub, name)).state != wanted:  # noqa: ASYNC110  # another process's state
            await asyncio.sleep(0.02)
    return found
