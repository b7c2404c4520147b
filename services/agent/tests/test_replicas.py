"""Replicas over one model store and a real Redis: whoever changes something learns how far the others are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from services.agent.tests.agent_stack import action
from services.agent.tests.job_fleet import fleet_in
from services.agent.tests.model_publisher import Publisher

from aegis.agent.v1 import agent_service_pb2_grpc as agent_grpc
from aegis.agent.v1 import model_service_pb2 as model_pb
from aegis.agent.v1 import model_service_pb2_grpc as model_grpc
from aegis.agent.v1 import replica_pb2
from aegis_agent import AgentManager
from aegis_agent.adapters.jobs.connection import connect
from aegis_agent.adapters.models import library
from aegis_agent.adapters.models.loader import OnnxLoader
from aegis_agent.adapters.models.options import ModelOptions
from aegis_agent.adapters.replicas.roster import PREFIX, Roster
from aegis_agent.domain.models import Models
from aegis_agent.domain.replicas import ReplicaState, ReplicaStatus
from aegis_common.rpc.channel import mesh_channel
from aegis_common.signing import Signer, TrustedKeys
from aegis_common.store.models import ModelStore
from aegis_common.store.objects import ObjectStore
from aegis_common.testing.redis import RedisServer

Make = Callable[..., bytes]
LONG = timedelta(seconds=60)
SHORT = timedelta(seconds=0.3)
LIVE, LAGGING, REFUSED, UNKNOWN = ReplicaState


class Replica:
    """One agent's models, and its place on the roster."""

    def __init__(self, name: str, models: Models, manager: AgentManager, roster: Roster) -> None:
        self.name, self.models, self.manager, self.roster = name, models, manager, roster

    def serves(self) -> str:
        found = self.manager.registry.owned("colours", owner="default")
        return found.tool.model_version if found else ""

    async def publish(
        self, publisher: Publisher, version: str, data: bytes, *aliases: str, within: timedelta = LONG
    ) -> list[ReplicaStatus]:
        sha256 = await publisher.put(version, data)
        done = await self.models.changes.publish(
            "colours", version, sha256=sha256, aliases=aliases, tenant="default", by="tester"
        )
        return await self.roster.settled(done.change, within=within)

    async def point(self, alias: str, version: str, *, within: timedelta = LONG) -> list[ReplicaStatus]:
        done = await self.models.changes.set_alias("colours", alias, version, tenant="default", by="tester")
        return await self.roster.settled(done.change, within=within)


@asynccontextmanager
async def replica(
    name: str, publisher: Publisher, redis: RedisServer, *, trusted: TrustedKeys | None = None
) -> AsyncIterator[Replica]:
    async with AgentManager() as manager, AsyncExitStack() as stack:
        stored = library.StoredModels(
            publisher.objects, trusted or publisher.trusted, max_model_bytes=1 << 20
        )
        roster = Roster(connect(redis.url), name=name, address=f"{name}:9000")
        stack.push_async_callback(roster.close)
        loader = OnnxLoader(manager.fork_server, ModelOptions())
        # Without news it would look too late for any test.
        models = Models(stored, loader, manager.registry, sync_every=LONG * 9, report=roster.report)
        roster.listen(models.look_soon)
        await models.start()
        stack.push_async_callback(models.close)
        await stack.enter_async_context(roster.joined())
        yield Replica(name, models, manager, roster)


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path / "redis")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    return Publisher(tmp_path)


def told(statuses: list[ReplicaStatus]) -> list[tuple[str, ReplicaState]]:
    return [(status.replica, status.state) for status in statuses]


async def test_the_answer_to_a_change_comes_when_every_replica_serves_it(
    publisher: Publisher, redis: RedisServer, make_linear: Make
) -> None:
    async with replica("a", publisher, redis) as here, replica("b", publisher, redis) as there:
        first = await here.publish(publisher, "v1", make_linear(), "production")
        after_first = there.serves()
        await here.publish(publisher, "v2", make_linear(shift=1))
        second = await there.point("production", "v2")
        after_second = here.serves()
        again = await there.point("production", "v2")

    assert told(first) == [("a", LIVE), ("b", LIVE)]
    assert told(second) == told(again) == [("b", LIVE), ("a", LIVE)]
    assert (after_first, after_second) == ("v1", "v2")
    assert [(status.address, status.message) for status in first] == [("a:9000", ""), ("b:9000", "")]


async def test_a_replica_that_does_not_follow_lags_until_it_does(
    publisher: Publisher, redis: RedisServer, make_linear: Make
) -> None:
    async with replica("a", publisher, redis) as here, replica("b", publisher, redis) as there:
        await here.publish(publisher, "v1", make_linear(), "production")
        async with there.models._tools.lock("default", "colours"):
            late = await here.publish(publisher, "v2", make_linear(shift=1), "production", within=SHORT)
            served = there.serves()
        caught_up = await here.point("production", "v2")

        assert told(late) == [("a", LIVE), ("b", LAGGING)]
        assert "not taken the change over yet" in late[1].message
        assert (served, there.serves()) == ("v1", "v2")
        assert told(caught_up) == [("a", LIVE), ("b", LIVE)]


async def test_a_replica_that_cannot_take_a_change_over_says_why(
    publisher: Publisher, redis: RedisServer, make_linear: Make
) -> None:
    nobody = TrustedKeys()
    async with (
        replica("a", publisher, redis) as here,
        replica("b", publisher, redis, trusted=nobody) as there,
    ):
        statuses = await here.publish(publisher, "v1", make_linear(), "production")

        assert told(statuses) == [("a", LIVE), ("b", REFUSED)]
        assert "v1" in statuses[1].message
        assert there.serves() == ""


async def test_what_is_wrong_with_another_version_is_no_refusal_of_this_change(
    publisher: Publisher, redis: RedisServer, make_linear: Make
) -> None:
    async with replica("a", publisher, redis) as here:
        await here.publish(publisher, "v1", make_linear())
        manifest = publisher.folder / "default/models/colours/versions/v1.json"
        manifest.write_bytes(manifest.read_bytes()[:-5])
        async with replica("b", publisher, redis) as there:
            statuses = await here.publish(publisher, "v2", make_linear(), "production")

            assert told(statuses) == [("a", LIVE), ("b", LIVE)]
            assert there.serves() == "v2"


async def test_a_replica_that_leaves_or_dies_is_waited_for_no_more(
    publisher: Publisher, redis: RedisServer, make_linear: Make
) -> None:
    async with replica("a", publisher, redis) as here:
        async with replica("b", publisher, redis):
            pass
        left = await here.publish(publisher, "v1", make_linear(), "production")
        dead = Roster(connect(redis.url), name="c")
        await dead._renew()
        dying = await here.point("production", "v1", within=SHORT)
        client = connect(redis.url)
        await client.pexpire(PREFIX + dead._id, 1)
        await asyncio.sleep(0.01)
        gone = await here.point("production", "v1", within=SHORT)
        await asyncio.gather(client.aclose(), dead.close())

    assert told(left) == told(gone) == [("a", LIVE)]
    assert told(dying) == [("a", LIVE), ("c", LAGGING)]


async def test_without_redis_the_answer_says_that_others_are_not_known_until_it_is_back(
    publisher: Publisher, redis: RedisServer, make_linear: Make
) -> None:
    async with replica("a", publisher, redis) as here, replica("b", publisher, redis) as there:
        await here.publish(publisher, "v1", make_linear(), "production")
        redis.kill()
        away = await here.publish(publisher, "v2", make_linear(shift=1), "production")
        redis.start()
        back = await here.point("production", "v2")

        assert told(away) == [("a", LIVE), ("", UNKNOWN)]
        assert "Redis" in away[1].message
        assert told(back) == [("a", LIVE), ("b", LIVE)]
        assert there.serves() == "v2"


async def test_whoever_publishes_through_one_agent_is_told_of_both(tmp_path: Path, make_linear: Make) -> None:
    names = [{"advertise": f"host-{number}:1"} for number in range(2)]
    async with fleet_in(tmp_path, names) as fleet, AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(
                mesh_channel(f"127.0.0.1:{port}", service="agent", tls=fleet.mesh.tls("admin"))
            )
            for port in fleet.ports
        ]
        objects = ObjectStore.open(f"file://{tmp_path / 'store'}")
        store = ModelStore(objects, Signer.load(tmp_path / "signing.key"), TrustedKeys())
        about = {"domain": "rows"}
        manifest = await store.publish(
            "default", "colours", "v1", make_linear(), format="onnx", provenance=about
        )
        models = model_grpc.ModelServiceStub(channels[0])
        published = await models.PublishModelVersion(
            model_pb.PublishModelVersionRequest(
                parent="models/colours", version="v1", sha256=manifest.sha256, aliases=["production"]
            )
        )
        rows = action("colours", input=[[1, 0, 0, 0]])
        answer = await agent_grpc.AgentServiceStub(channels[1]).Dispatch(rows)
        moved = await models.SetAlias(
            model_pb.SetAliasRequest(model="models/colours", alias="candidate", version="v1")
        )

    live = replica_pb2.ReplicaStatus.STATE_LIVE
    expected = [
        replica_pb2.ReplicaStatus(replica=f"agent-{number}", address=f"host-{number}:1", state=live)
        for number in range(2)
    ]
    assert list(published.replicas) == list(moved.replicas) == expected
    assert answer.model_version == "models/colours/versions/v1"
