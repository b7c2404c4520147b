"""ReservationService over real mutual TLS, with a real Redis: the contract that a caller sees."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from pydantic import SecretStr

from aegis.carbon.v1 import reservation_service_pb2 as pb
from aegis.carbon.v1 import reservation_service_pb2_grpc as pb_grpc
from aegis_carbon.main import running
from aegis_carbon.settings import Settings
from aegis_carbon.testing.clock import ManualClock
from aegis_carbon.testing.ledger import Grid
from aegis_carbon.testing.reservation_calls import create, get, moment, state_of, wanted
from aegis_carbon.testing.uk_api import Answer, UkApi
from aegis_common.rpc.errors import details_of
from aegis_common.rpc.times import duration, timestamp
from aegis_common.testing.pki import Mesh
from aegis_common.testing.redis import RedisServer

HOUR = timedelta(hours=1)
DEAD = "zones/GB"
Request = pb.ReportReservationRequest
Signal = pb.ReservationSignal
State = pb.Reservation


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Mesh:
    return Mesh(tmp_path_factory.mktemp("mesh"))


class Service:
    """A carbon service, and stubs of its callers."""

    def __init__(self, mesh: Mesh, port: int, clock: ManualClock, stack: AsyncExitStack) -> None:
        self._mesh, self._port, self._stack = mesh, port, stack
        self.clock = clock

    async def stub(self, account: str = "agent") -> pb_grpc.ReservationServiceAsyncStub:
        channel = self._mesh.channel(self._port, "carbon", account=account)
        return pb_grpc.ReservationServiceStub(await self._stack.enter_async_context(channel))

    def of(self, **claims: Any) -> dict[str, Any]:
        return {"metadata": (("authorization", f"Bearer {self._mesh.token(**claims)}"),)}


def settings_of(mesh: Mesh, uk_api: UkApi, folder: Path, redis: str, **more: Any) -> Settings:
    uk_api.default = Answer(None, 400)
    kwargs = {**mesh.service_kwargs("carbon"), "audit_dir": folder, "drain": timedelta(0), **more}
    return Settings(api_url=uk_api.url, redis_url=SecretStr(redis), max_reservations=3, **kwargs)


@pytest.fixture
async def service(
    mesh: Mesh, uk_api: UkApi, clock: ManualClock, tmp_path: Path, durable: RedisServer
) -> AsyncIterator[Service]:
    settings = settings_of(mesh, uk_api, tmp_path, durable.url, capacity_pools={"gpus": 1})
    async with running(settings, clock=clock) as server, AsyncExitStack() as stack:
        yield Service(mesh, server.port, clock, stack)


@pytest.fixture
async def stub(service: Service) -> pb_grpc.ReservationServiceAsyncStub:
    return await service.stub()


async def failure(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), details_of(caught.value).reason


async def test_work_waits_for_its_window_and_knows_its_latest_start(
    stub: pb_grpc.ReservationServiceAsyncStub, clock: ManualClock
) -> None:
    made = await create(stub, wanted(clock, hours=2, labels={"team": "ml"}))

    assert (State.STATE_WAITING, 1, "ml") == (made.state, made.start_token, made.labels["team"])
    assert not made.HasField("signal")
    assert made.plan.saving > 0
    assert moment(made.plan.spans[0].start_time) > clock.now
    assert clock.now + 18 * HOUR - timedelta(seconds=5) == moment(made.latest_start_time)
    assert made == await get(stub, made.name)


async def test_the_signals_come_through_the_watch_and_end_with_the_work(
    stub: pb_grpc.ReservationServiceAsyncStub, clock: ManualClock
) -> None:
    made = await create(stub, wanted(clock))
    watch = stub.WatchReservation(pb.WatchReservationRequest(name=made.name))
    events = aiter(watch)
    first = await anext(events)
    clock.now = moment(made.plan.spans[0].start_time)
    start = await anext(events)
    again = aiter(
        stub.WatchReservation(pb.WatchReservationRequest(name=made.name, resume_token=start.resume_token))
    )
    report = Request(name=made.name, event=Request.EVENT_FINISHED, token=1)
    clock.move(minutes=50)
    done = (await stub.ReportReservation(report)).reservation

    assert made == first.reservation
    assert (1, Signal.KIND_START, Signal.REASON_PLANNED_SPAN) == (
        start.signal.token,
        start.signal.kind,
        start.signal.reason,
    )
    assert done == (await anext(events)).end == (await anext(again)).end
    assert (State.STATE_FINISHED, False, 50 * 60) == (done.state, done.end_assumed, done.work_done.seconds)
    assert [] == [event async for event in events]


async def test_a_watch_that_reaches_its_cap_says_where_to_go_on(
    stub: pb_grpc.ReservationServiceAsyncStub, clock: ManualClock
) -> None:
    made = await create(stub, wanted(clock))
    events = [
        event
        async for event in stub.WatchReservation(pb.WatchReservationRequest(name=made.name), timeout=0.5)
    ]
    other = await create(stub, wanted(clock))
    foreign = pb.WatchReservationRequest(name=other.name, resume_token=events[0].resume_token)

    assert ["reservation", "reconnect"] == [event.WhichOneof("event") for event in events]
    assert (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_RESUME_TOKEN") == await failure(
        anext(aiter(stub.WatchReservation(foreign)))
    )


async def test_what_is_split_is_suspended_and_goes_on(
    stub: pb_grpc.ReservationServiceAsyncStub, clock: ManualClock
) -> None:
    made = await create(stub, wanted(clock, hours=9, within=40, split=True))
    spans = list(made.plan.spans)
    clock.now = moment(spans[0].start_time)
    await state_of(stub, made.name, State.STATE_RUNNING)
    clock.now = moment(spans[0].end_time)
    paused = await state_of(stub, made.name, State.STATE_SUSPENDED)
    clock.now = moment(spans[1].start_time)
    resumed = await state_of(stub, made.name, State.STATE_RUNNING)

    assert len(spans) > 1
    assert (2, Signal.KIND_SUSPEND, spans[1].start_time) == (
        paused.signal.token,
        paused.signal.kind,
        paused.signal.until_time,
    )
    assert paused.latest_start_time == paused.signal.latest_start_time
    assert (3, Signal.KIND_RESUME) == (resumed.signal.token, resumed.signal.kind)


async def test_a_clock_that_jumps_past_everything_gives_a_last_call_and_then_assumes_the_end(
    stub: pb_grpc.ReservationServiceAsyncStub, clock: ManualClock
) -> None:
    made = await create(stub, wanted(clock))
    clock.now = moment(made.latest_start_time) + timedelta(seconds=1)
    late = await state_of(stub, made.name, State.STATE_RUNNING)
    clock.move(hours=5)
    over = await state_of(stub, made.name, State.STATE_FINISHED)
    clock.move(days=8)
    async with asyncio.timeout(20):
        with pytest.raises(grpc.aio.AioRpcError) as gone:
            while (await get(stub, made.name)).name:  # noqa: ASYNC110  # the timer's work
                await asyncio.sleep(0.02)

    assert (Signal.KIND_DEADLINE, 1) == (late.signal.kind, late.signal.token)
    assert over.end_assumed
    assert "UNKNOWN_RESERVATION" == details_of(gone.value).reason


async def test_a_request_id_makes_one_reservation(
    stub: pb_grpc.ReservationServiceAsyncStub, clock: ManualClock, service: Service
) -> None:
    asked, other = wanted(clock), wanted(clock, hours=2)
    first = await create(stub, asked, "one")
    clock.move(minutes=5)
    again = await asyncio.gather(*(create(stub, asked, "one") for _ in range(5)))
    both = await asyncio.gather(*(create(stub, other, "two") for _ in range(2)))

    assert {first.name} == {found.name for found in again}
    assert both[0] == both[1]
    assert (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED") == await failure(create(stub, other, "one"))
    elsewhere = await create(stub, other, "one", **service.of(tenant="other", roles=["operator"]))
    assert elsewhere.name not in (first.name, both[0].name)


async def test_reservations_are_listed_newest_first_by_state_and_tenant(
    stub: pb_grpc.ReservationServiceAsyncStub, clock: ManualClock, service: Service
) -> None:
    names = []
    for _ in range(3):
        names.append((await create(stub, wanted(clock))).name)
        clock.move(seconds=1)
    gone = (await stub.CancelReservation(pb.CancelReservationRequest(name=names[1]))).reservation
    page = await stub.ListReservations(pb.ListReservationsRequest(page_size=2))
    rest = await stub.ListReservations(
        pb.ListReservationsRequest(page_size=2, page_token=page.next_page_token)
    )
    waiting = await stub.ListReservations(pb.ListReservationsRequest(states=[State.STATE_WAITING]))
    other = service.of(tenant="other", roles=["viewer"])

    assert names[:0:-1] == [item.name for item in page.reservations]
    assert ([names[0]], "") == ([item.name for item in rest.reservations], rest.next_page_token)
    assert [names[2], names[0]] == [item.name for item in waiting.reservations]
    assert State.STATE_CANCELLED == gone.state
    assert gone == (await stub.CancelReservation(pb.CancelReservationRequest(name=names[1]))).reservation
    assert [] == list((await stub.ListReservations(pb.ListReservationsRequest(), **other)).reservations)
    foreign = stub.GetReservation(pb.GetReservationRequest(name=names[0]), **other)
    assert (grpc.StatusCode.NOT_FOUND, "UNKNOWN_RESERVATION") == await failure(foreign)


async def test_a_tenant_has_so_many_open_ones(
    stub: pb_grpc.ReservationServiceAsyncStub, clock: ManualClock
) -> None:
    made = [await create(stub, wanted(clock)) for _ in range(3)]
    full = await failure(create(stub, wanted(clock)))
    await stub.CancelReservation(pb.CancelReservationRequest(name=made[0].name))

    assert (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_RESERVATIONS") == full
    assert (await create(stub, wanted(clock))).name


async def test_of_ended_ones_the_oldest_go_before_their_time(
    stub: pb_grpc.ReservationServiceAsyncStub, clock: ManualClock
) -> None:
    names = []
    for number in range(34):
        names.append((await create(stub, wanted(clock), f"id-{number}")).name)
        if number:  # the first one stays open
            await stub.CancelReservation(pb.CancelReservationRequest(name=names[-1]))
        clock.move(seconds=1)
    kept = await stub.ListReservations(pb.ListReservationsRequest())

    assert [*names[:4:-1], names[0]] == [item.name for item in kept.reservations]
    assert (await create(stub, wanted(clock), "id-1")).name not in names


async def test_while_nothing_is_known_on_missing_decides(
    stub: pb_grpc.ReservationServiceAsyncStub, clock: ManualClock
) -> None:
    at_once = await create(stub, wanted(clock, zone=DEAD))
    late = await create(
        stub, wanted(clock, zone=DEAD, on_missing=pb.RESERVATION_ON_MISSING_RUN_AT_LATEST_START)
    )
    held = await create(
        stub,
        wanted(clock, zone=DEAD, on_missing=pb.RESERVATION_ON_MISSING_HOLD, max_hold=duration(2 * HOUR)),
    )
    clock.move(hours=2)
    begun = await state_of(stub, held.name, State.STATE_RUNNING)

    assert (State.STATE_RUNNING, Signal.REASON_NO_DATA) == (at_once.state, at_once.signal.reason)
    assert State.STATE_WAITING == (await get(stub, late.name)).state
    assert not late.HasField("plan")
    assert Signal.REASON_NO_DATA == begun.signal.reason
    without = wanted(clock, on_missing=pb.RESERVATION_ON_MISSING_HOLD)
    assert (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT") == await failure(create(stub, without))


async def test_what_cannot_be_is_refused_with_the_reason(
    stub: pb_grpc.ReservationServiceAsyncStub, clock: ManualClock
) -> None:
    refused = {
        "INFEASIBLE_JOB": wanted(clock, hours=2, within=1),
        "UNKNOWN_ZONE": wanted(clock, zone="zones/demo-dya"),
        "UNKNOWN_CAPACITY_POOL": wanted(clock, capacity_pool="gpu"),
    }

    assert list(refused) == [(await failure(create(stub, asked)))[1] for asked in refused.values()]


async def test_a_pool_never_runs_more_than_its_capacity_and_says_when_a_job_could_end(
    stub: pb_grpc.ReservationServiceAsyncStub, clock: ManualClock
) -> None:
    flexible = await create(stub, wanted(clock, hours=2, within=20, capacity_pool="gpus"))
    begin = moment(flexible.plan.spans[0].start_time) - clock.now
    # Just where the first one wanted to run.
    asked = wanted(clock, hours=2, within=(begin + 3 * HOUR) / HOUR, capacity_pool="gpus")
    asked.job.earliest_start_time.CopyFrom(timestamp(clock.now + begin - HOUR))
    urgent = await create(stub, asked)
    spans = [
        (moment(span.start_time), moment(span.end_time))
        for item in (await get(stub, flexible.name), urgent)
        for span in item.plan.spans
    ]
    with pytest.raises(grpc.aio.AioRpcError, match="earliest") as refused:
        await create(stub, wanted(clock, hours=19, within=20, capacity_pool="gpus"))
    found = details_of(refused.value)

    assert sorted(spans)[0][1] <= sorted(spans)[1][0]
    assert "INFEASIBLE_JOB" == found.reason
    assert clock.now + 20 * HOUR < datetime.fromisoformat(found.metadata["earliest_finish"])
    again = wanted(clock, hours=19, within=20, capacity_pool="gpus")
    again.job.deadline.FromDatetime(datetime.fromisoformat(found.metadata["deadline"]))
    assert (await create(stub, again)).name


async def test_a_start_is_one_holders(stub: pb_grpc.ReservationServiceAsyncStub, clock: ManualClock) -> None:
    made = await create(stub, wanted(clock))
    clock.move(hours=1)
    begun = (
        await stub.ReportReservation(
            Request(name=made.name, event=Request.EVENT_STARTED, token=1, holder="a")
        )
    ).reservation
    second = Request(name=made.name, event=Request.EVENT_STARTED, token=1, holder="b")

    assert (State.STATE_RUNNING, clock.now) == (begun.state, moment(begun.start_time))
    assert (grpc.StatusCode.ABORTED, "STALE_TOKEN") == await failure(stub.ReportReservation(second))


async def test_without_a_store_every_call_says_how_to_get_one(
    mesh: Mesh, uk_api: UkApi, clock: ManualClock, tmp_path: Path, redis: RedisServer
) -> None:
    for url, told in (("", "REDIS_URL"), (redis.url, "appendonly")):
        settings = settings_of(mesh, uk_api, tmp_path, url)
        async with (
            running(settings, clock=clock) as server,
            mesh.channel(server.port, "carbon", account="agent") as channel,
        ):
            stub = pb_grpc.ReservationServiceStub(channel)
            with pytest.raises(grpc.aio.AioRpcError, match=told) as caught:
                await stub.ListReservations(pb.ListReservationsRequest())

            assert (grpc.StatusCode.FAILED_PRECONDITION, "RESERVATIONS_NOT_CONFIGURED") == (
                caught.value.code(),
                details_of(caught.value).reason,
            )


class Sunny(Grid):
    """A grid that is clean for an hour a day, as forecast."""

    def __init__(self, clock: ManualClock, clean: datetime) -> None:
        super().__init__(clock)
        self.clean = clean

    def at(self, start: datetime) -> float:
        return 20.0 if self.clean <= start < self.clean + HOUR else self.value


async def test_a_new_forecast_moves_what_waits(
    mesh: Mesh, uk_api: UkApi, clock: ManualClock, tmp_path: Path, durable: RedisServer
) -> None:
    start = clock.now.replace(minute=0)
    grid = Sunny(clock, start + 10 * HOUR)
    settings = settings_of(
        mesh,
        uk_api,
        tmp_path,
        durable.url,
        replan_every=timedelta(seconds=0.02),
        refresh=timedelta(seconds=0.02),
    )
    uk_api.answer = grid
    async with (
        running(settings, clock=clock) as server,
        mesh.channel(server.port, "carbon", account="agent") as channel,
    ):
        stub = pb_grpc.ReservationServiceStub(channel)
        made = await create(stub, wanted(clock, zone="zones/GB"))
        grid.clean = start + 5 * HOUR
        moved = made
        async with asyncio.timeout(20):
            while not moved.replan_count:
                clock.move(seconds=30)
                await asyncio.sleep(0.02)
                moved = await get(stub, made.name)

    assert start + 10 * HOUR == moment(made.plan.spans[0].start_time)
    assert (start + 5 * HOUR, 1) == (moment(moved.plan.spans[0].start_time), moved.replan_count)
    assert State.STATE_WAITING == moved.state
