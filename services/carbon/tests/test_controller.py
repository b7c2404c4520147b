"""The controller with a real carbon service, a real Redis, and an API server on loopback."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr, ValidationError

from aegis.carbon.v1 import reservation_service_pb2 as pb
from aegis.carbon.v1 import reservation_service_pb2_grpc as pb_grpc
from aegis_carbon.controller.domain.record import RECORD
from aegis_carbon.controller.main import Running, running
from aegis_carbon.controller.settings import ControllerSettings
from aegis_carbon.main import running as carbon_running
from aegis_carbon.settings import Settings
from aegis_carbon.testing.clock import ManualClock
from aegis_carbon.testing.kube_api import KubeApi
from aegis_carbon.testing.kube_cluster import Request
from aegis_carbon.testing.uk_api import Answer, UkApi
from aegis_common.errors import ConfigurationError
from aegis_common.testing.pki import Mesh
from aegis_common.testing.ports import free_port
from aegis_common.testing.redis import RedisServer
from aegis_common.testing.waiting import until

HOUR = timedelta(hours=1)
State = pb.Reservation


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Mesh:
    return Mesh(tmp_path_factory.mktemp("mesh"))


@pytest.fixture
def api(mesh: Mesh) -> Iterator[KubeApi]:
    tls = mesh.tls("gateway")  # it has the address of loopback
    with KubeApi.serving((tls.cert, tls.key)) as server:
        yield server


class World:
    """A cluster, and the services around it, that share a clock."""

    def __init__(
        self, mesh: Mesh, api: KubeApi, uk_api: UkApi, redis: RedisServer, clock: ManualClock, folder: Path
    ) -> None:
        self.mesh, self.api, self.uk_api, self.redis, self.clock = mesh, api, uk_api, redis, clock
        self._folder, self._port = folder, free_port()
        self._carbon: AsyncExitStack | None = None

    async def start_carbon(self) -> None:
        self.uk_api.default = Answer(None, 400)
        settings = Settings(
            listen=f"127.0.0.1:{self._port}",
            api_url=self.uk_api.url,
            redis_url=SecretStr(self.redis.url),
            drain=timedelta(0),
            **{**self.mesh.service_kwargs("carbon"), "audit_dir": self._folder / "audit"},
        )
        self._carbon = AsyncExitStack()
        await self._carbon.enter_async_context(carbon_running(settings, clock=self.clock))

    async def stop_carbon(self) -> None:
        if self._carbon is not None:
            await self._carbon.aclose()
        self._carbon = None

    def settings(self, **more: Any) -> ControllerSettings:
        token = self._folder / "token"
        token.write_text("secret")
        given = {
            "cluster": "test",
            "namespaces": {"*": "default", "team-a": "a"},
            "carbon": f"127.0.0.1:{self._port}",
            "api_server": self.api.url,
            "api_ca": self.mesh.ca.bundle,
            "api_token": token,
            "lease_namespace": "aegis",
            "lease_duration": timedelta(seconds=1),
            "poll": timedelta(seconds=0.1),
            "tls": self.mesh.tls("carbon-controller"),
        }
        return ControllerSettings(**{**given, **more})

    async def reservations(self, tenant: str = "default") -> list[pb.Reservation]:
        """Return the reservations of a tenant, the newest first."""
        token = self.mesh.token(tenant=tenant)
        async with self.mesh.channel(self._port, "carbon", account="gateway") as channel:
            stub: pb_grpc.ReservationServiceAsyncStub = pb_grpc.ReservationServiceStub(channel)
            answer = await stub.ListReservations(
                pb.ListReservationsRequest(), metadata=(("authorization", f"Bearer {token}"),)
            )
        return list(answer.reservations)

    async def reserved(self, state: int, tenant: str = "default", *, but: str = "") -> pb.Reservation:
        """Return the newest reservation, if it is not *but*, as soon as it is in a state."""
        async with asyncio.timeout(20):
            while True:
                found = await self.reservations(tenant)
                if found and found[0].state == state and found[0].name != but:
                    return found[0]
                await asyncio.sleep(0.05)

    def wish(self, **more: str) -> dict[str, str]:
        named = {"deadline": "20h", "duration": "1h", "zone": "demo-day", **more}
        return {f"aegis.dev/{name.replace('_', '-')}": text for name, text in named.items()}

    def create(
        self, name: str = "train", *, suspend: bool = True, namespace: str = "default", **wish: str
    ) -> str:
        return self.api.create_job(
            name, self.wish(**wish), suspend=suspend, namespace=namespace, created=self.clock.now
        )

    def phase(self, name: str = "train", namespace: str = "default") -> tuple[str, bool]:
        item = self.api.job(name, namespace)
        record = json.loads(item["metadata"]["annotations"].get(RECORD, '{"phase": "none"}'))
        return record["phase"], item["spec"]["suspend"]

    def booked(self, name: str = "train", namespace: str = "default") -> bool:
        return "reservations/" in self.api.job(name, namespace)["metadata"]["annotations"].get(RECORD, "")

    def told(self) -> set[str]:
        return {event["reason"] for event in self.api.events()}


@pytest.fixture
async def world(
    mesh: Mesh, api: KubeApi, uk_api: UkApi, durable: RedisServer, clock: ManualClock, tmp_path: Path
) -> AsyncIterator[World]:
    world = World(mesh, api, uk_api, durable, clock, tmp_path)
    await world.start_carbon()
    yield world
    await world.stop_carbon()


@pytest.fixture
async def controller(world: World) -> AsyncIterator[Running]:
    async with running(world.settings(), clock=world.clock) as found:
        yield found


def moment(found: Any) -> datetime:
    return found.ToDatetime(tzinfo=UTC)  # type: ignore[no-any-return]


async def test_a_job_waits_for_its_window_runs_once_and_its_end_is_reported(
    world: World, controller: Running
) -> None:
    uid = world.create(namespace="team-a")
    await until(lambda: world.booked(namespace="team-a"))
    waiting = await world.reserved(State.STATE_WAITING, "a")
    assert ("waiting", True) == world.phase(namespace="team-a")
    assert [] == await world.reservations()
    assert (uid, "team-a", "test") == tuple(
        waiting.labels[f"kubernetes.{name}"] for name in ("uid", "namespace", "cluster")
    )

    world.clock.now = moment(waiting.plan.spans[0].start_time)
    await until(lambda: world.phase(namespace="team-a") == ("running", False))
    world.clock.move(minutes=30)
    world.api.complete_job("train", namespace="team-a")

    ended = await world.reserved(State.STATE_FINISHED, "a")
    assert not ended.end_assumed
    assert 1 == world.api.starts(uid)
    await until(lambda: world.told() == {"WaitingForCleanPower", "Started"})


@pytest.mark.long
async def test_work_that_may_be_interrupted_pauses_and_goes_on_with_the_grid(
    world: World, controller: Running
) -> None:
    uid = world.create(suspend=False, duration="6h", deadline="20h", interruptible="true", min_chunk="1h")
    await until(world.booked)
    waiting = await world.reserved(State.STATE_WAITING)
    assert len(waiting.plan.spans) > 1
    stretches = 0
    while True:
        world.clock.now = moment(waiting.plan.spans[0].start_time)
        await until(lambda: world.phase() == ("running", False))
        stretches += 1
        spans = (await world.reserved(State.STATE_RUNNING)).plan.spans
        if len(spans) == 1:
            break
        world.clock.now = moment(spans[0].end_time)
        await until(lambda: world.phase() == ("suspended", True))
        waiting = await world.reserved(State.STATE_SUSPENDED)
        assert waiting.work_done.ToTimedelta() > timedelta(0)
    world.api.complete_job("train")

    await world.reserved(State.STATE_FINISHED)
    # It may have been started when it was created, before it was seen.
    assert stretches <= world.api.starts(uid) <= 1 + stretches
    await until(lambda: {"Started", "Suspended", "Resumed"} <= world.told())


async def test_a_dead_carbon_service_makes_no_job_late_and_learns_of_it_when_it_is_back(
    world: World, controller: Running
) -> None:
    uid = world.create()
    await until(world.booked)
    latest = moment((await world.reserved(State.STATE_WAITING)).latest_start_time)
    await world.stop_carbon()
    world.clock.now = latest - timedelta(minutes=5)
    await asyncio.sleep(1.5)
    assert ("waiting", True) == world.phase()

    world.clock.now = latest
    await until(lambda: world.phase() == ("running", False))
    await world.start_carbon()
    known = await world.reserved(State.STATE_RUNNING)

    assert latest >= moment(known.start_time)
    assert 1 == world.api.starts(uid)
    await until(lambda: "DeadlineNear" in world.told())


async def test_it_is_ready_when_it_has_seen_every_job_and_counts_what_it_told(
    world: World, controller: Running
) -> None:
    world.create("late", duration="1h", deadline="1h")
    await until(lambda: world.phase("late") == ("released", False))
    await until(lambda: bool(world.told()))
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{controller.ops_port}", trust_env=False) as ops:
        ready = await ops.get("/ready")
        metrics = (await ops.get("/metrics")).text

    assert 200 == ready.status_code
    assert re.search(r'carbon_controller_events_total\{[^}]*reason="DeadlineNear"[^}]*\} 1', metrics)
    assert re.search(r'carbon_controller_jobs\{[^}]*phase="released"[^}]*\} 1', metrics)
    assert re.search(r"carbon_controller_leading(\{[^}]*\})? 1", metrics)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"namespaces": {"a": "NO"}}, "NO"),
        ({"namespaces": {}}, "namespaces"),
        ({"cluster": ""}, "cluster"),
        ({"carbon": "carbon"}, "carbon"),
    ],
)
def test_a_setting_that_does_not_fit_is_named(world: World, setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        world.settings(**setting)


async def test_a_token_is_not_sent_in_clear_and_a_missing_file_is_named(world: World) -> None:
    for setting, message in (
        ({"api_server": "http://api.example:6443"}, "write https://"),
        ({"api_server": ""}, "KUBERNETES_SERVICE_HOST"),
        ({"api_ca": Path("/nowhere/ca.crt")}, "/nowhere/ca.crt"),
        ({"lease_namespace": ""}, "AEGIS_CONTROLLER_LEASE_NAMESPACE"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            async with running(world.settings(**setting)):
                pass


async def test_a_job_that_is_deleted_while_it_waits_gives_its_reservation_back(
    world: World, controller: Running
) -> None:
    world.create()
    await until(world.booked)

    world.api.delete_job("train")

    await world.reserved(State.STATE_CANCELLED)


@pytest.mark.long
async def test_a_wish_that_is_taken_back_gives_its_reservation_back(
    world: World, controller: Running
) -> None:
    world.create()
    await until(world.booked)

    def without(item: dict[str, Any]) -> None:
        kept = {RECORD: item["metadata"]["annotations"][RECORD]}
        item["metadata"]["annotations"] = kept

    world.api.edit_job("train", without)

    await world.reserved(State.STATE_CANCELLED)
    await until(lambda: world.phase() == ("none", True))


@pytest.mark.long
async def test_what_was_deleted_while_no_controller_ran_is_given_back_but_not_another_clusters(
    world: World,
) -> None:
    async with running(world.settings(), clock=world.clock):
        world.create()
        await until(world.booked)
    world.api.delete_job("train")
    async with running(world.settings(cluster="other"), clock=world.clock) as other:
        await until(other.leading)
        await asyncio.sleep(0.5)
        assert State.STATE_WAITING == (await world.reservations())[0].state

    async with running(world.settings(), clock=world.clock):
        await world.reserved(State.STATE_CANCELLED)


async def test_a_zone_that_nobody_covers_lets_the_job_run_and_names_it(
    world: World, controller: Running
) -> None:
    world.create(zone="demo-dey")

    await until(lambda: "BadAnnotation" in world.told())
    assert ("released", False) == world.phase()
    (event,) = world.api.events("BadAnnotation")
    assert "demo-dey" in event["message"]
    assert "demo-day" in event["message"]


@pytest.mark.long
async def test_a_changed_wish_gives_the_old_reservation_back(world: World, controller: Running) -> None:
    world.create()
    await until(world.booked)
    first = await world.reserved(State.STATE_WAITING)

    def within(hours: str) -> None:
        def edit(item: dict[str, Any]) -> None:
            item["metadata"]["annotations"]["aegis.dev/deadline"] = hours

        world.clock.move(seconds=1)
        world.api.edit_job("train", edit)

    within("19h")
    second = await world.reserved(State.STATE_WAITING, but=first.name)
    within("20h")
    third = await world.reserved(State.STATE_WAITING, but=second.name)

    assert len({first.name, second.name, third.name}) == 3
    async with asyncio.timeout(20):
        while sum(item.state == State.STATE_CANCELLED for item in await world.reservations()) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert ("waiting", True) == world.phase()


async def test_the_next_controller_goes_on_where_the_last_one_was_lost(world: World) -> None:
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(running(world.settings(), clock=world.clock))
        await until(first.leading)
        uid = world.create(interruptible="true")
        await until(world.booked)
        second = await stack.enter_async_context(running(world.settings(), clock=world.clock))
        await until(second.synced)
        # The first one can write no more; the second one can.
        holder = _holder(world)
        world.api.refuse = lambda request: 503 if _writes_lease_of(request, holder) else None
        world.clock.now = moment((await world.reserved(State.STATE_WAITING)).plan.spans[0].start_time)
        await until(lambda: world.phase() == ("running", False))
        await until(lambda: second.leading() and not first.leading())

        assert 1 == world.api.starts(uid)


def _holder(world: World) -> str:
    path = "/apis/coordination.k8s.io/v1/namespaces/aegis/leases/aegis-carbon-controller"
    _, lease = world.api.answer(Request("GET", path, {}, None, ""))
    return str(lease["spec"]["holderIdentity"])


def _writes_lease_of(request: Request, holder: str) -> bool:
    spec = request.body.get("spec", {}) if isinstance(request.body, dict) else {}
    return bool(spec.get("holderIdentity") == holder)
