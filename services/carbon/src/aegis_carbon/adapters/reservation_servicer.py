"""aegis.carbon.v1.ReservationService: protobuf in, domain call, protobuf out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from aegis.carbon.v1 import reservation_service_pb2 as pb
from aegis.carbon.v1 import reservation_service_pb2_grpc as pb_grpc
from aegis_carbon.adapters.convert import moment, time_to_work
from aegis_carbon.adapters.reservation_convert import (
    EVENTS,
    RESERVATIONS,
    STATES,
    reservation_message,
    wish_of,
)
from aegis_carbon.adapters.reservation_watch import ReservationWatcher
from aegis_carbon.domain.reservations.errors import ReservationsNotConfigured
from aegis_carbon.domain.reservations.service import Reservations
from aegis_carbon.domain.reservations.store import Ref
from aegis_common.paging import DEFAULT_PAGE_SIZE, place_of, token_of
from aegis_common.rpc.call import Context, current_call

SERVICE: Final = pb.DESCRIPTOR.services_by_name["ReservationService"].full_name


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservationDoor:
    """What the service stands on."""

    reservations: Reservations
    watcher: ReservationWatcher


class ReservationServicer(pb_grpc.ReservationServiceServicer):
    """Translate only; without a door, every call says how to get one."""

    def __init__(self, door: ReservationDoor | None) -> None:
        self._given = door

    @property
    def _door(self) -> ReservationDoor:
        if self._given is None:
            raise ReservationsNotConfigured(
                "this carbon service keeps no reservations; set REDIS_URL to a Redis that keeps its writes"
            )
        return self._given

    async def CreateReservation(
        self, request: pb.CreateReservationRequest, context: Context
    ) -> pb.CreateReservationResponse:
        found = await self._door.reservations.create(_tenant(), wish_of(request), within=time_to_work())
        return pb.CreateReservationResponse(reservation=reservation_message(found))

    async def GetReservation(
        self, request: pb.GetReservationRequest, context: Context
    ) -> pb.GetReservationResponse:
        found = await self._door.reservations.get(_ref(request.name))
        return pb.GetReservationResponse(reservation=reservation_message(found))

    async def ListReservations(
        self, request: pb.ListReservationsRequest, context: Context
    ) -> pb.ListReservationsResponse:
        states = frozenset(STATES[state] for state in request.states if state in STATES)
        query = f"{SERVICE}/ListReservations {_tenant()} {sorted(request.states)}"
        found, before = await self._door.reservations.page(
            _tenant(),
            states=states,
            before=place_of(request.page_token, query) if request.page_token else "",
            most=request.page_size or DEFAULT_PAGE_SIZE,
        )
        return pb.ListReservationsResponse(
            reservations=map(reservation_message, found),
            next_page_token=token_of(before, query) if before else "",
        )

    async def CancelReservation(
        self, request: pb.CancelReservationRequest, context: Context
    ) -> pb.CancelReservationResponse:
        found = await self._door.reservations.cancel(_ref(request.name))
        return pb.CancelReservationResponse(reservation=reservation_message(found))

    async def ReportReservation(
        self, request: pb.ReportReservationRequest, context: Context
    ) -> pb.ReportReservationResponse:
        found = await self._door.reservations.report(
            _ref(request.name),
            EVENTS[request.event],
            token=request.token,
            holder=request.holder,
            at=moment(request.event_time, "event_time") if request.HasField("event_time") else None,
            work_done=request.work_done.ToTimedelta() if request.HasField("work_done") else None,
        )
        return pb.ReportReservationResponse(reservation=reservation_message(found))

    async def WatchReservation(
        self, request: pb.WatchReservationRequest, context: Context
    ) -> AsyncIterator[pb.WatchReservationResponse]:
        events = self._door.watcher.watch(
            _ref(request.name),
            resume_token=request.resume_token,
            time_remaining=current_call().time_remaining,
        )
        async for event in events:
            yield event


def _tenant() -> str:
    return current_call().principal.tenant


def _ref(name: str) -> Ref:
    return Ref(_tenant(), name.removeprefix(RESERVATIONS))
