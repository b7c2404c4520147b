"""Replicas over one model store and a real Redis: whoever changes something learns how far the others are."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from services.agent.tests.agent_stack import action
from services.agent.tests.job_fleet import Fleet, failure, fleet_in
from services.agent.tests.model_publisher import ADA, Publisher, ask

from aegis.agent.v1 import agent_service_pb2_grpc as agent_grpc
from aegis.agent.v1 import model_service_pb2 as model_pb
from aegis.agent.v1 import model_service_pb2_grpc as model_grpc
from aegis.agent.v1 import replica_pb2
from aegis_agent import AgentManager
from aegis_agent.adapters.jobs.connection import connect
from aegis_agent.adapters.models import library
from aegis_agent.adapters.models.loader import OnnxLoader
from aegis_agent.adapters.models.loading import LoadRecords
from aegis_agent.adapters.models.options import ModelOptions
from aegis_agent.adapters.models.publisher_keys import StoredPublisherKeys
from aegis_agent.adapters.oip.messages import SERVICE, method_types
from aegis_agent.adapters.replicas.roster import PREFIX, Roster
from aegis_agent.domain.models import Models
from aegis_agent.domain.replicas import ReplicaState, ReplicaStatus
from aegis_common.clock import utc_now
from aegis_common.errors import AegisError, ErrorKind
from aegis_common.signing import Signer, TrustedKeys
from aegis_common.store.models import ModelStore
from aegis_common.store.objects import ObjectStore
from aegis_common.testing.redis import RedisServer

Make = Callable[..., bytes]
LONG = timedelta(seconds=10)
SHORT = timedelta(seconds=0.3)
TYPES = method_types()
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
        done = await self.models.moves.set_alias("colours", alias, version, tenant="default", by="tester")
        return await self.roster.settled(done.change, within=within)

    async def ask_for(self, what: str) -> list[ReplicaStatus]:
        """Have the model loaded or unloaded everywhere."""
        done = await getattr(self.models.loading, what)("colours", tenant="default", by="tester")
        return await self.roster.settled(done.change, within=LONG)

    async def refusal(self) -> str:
        """Return why a call is refused, or nothing."""
        try:
            await ask(self.manager, [[1, 0, 0, 0]])
        except AegisError as error:
            return error.reason
        return ""

    def resident_bytes(self) -> int:
        runner, _ = self.models.loaded(self.models.version("colours", "v1", tenant="default"))
        return runner.resident_bytes if runner else 0


@asynccontextmanager
async def replica(
    name: str, publisher: Publisher, redis: RedisServer, *, trusted: TrustedKeys | None = None
) -> AsyncIterator[Replica]:
    async with AgentManager() as manager, AsyncExitStack() as stack:
        stored = library.StoredModels(
            publisher.objects,
            trusted or publisher.trusted,
            keys=StoredPublisherKeys(publisher.objects, publisher.seal),
            max_model_bytes=1 << 20,
        )
        roster = Roster(connect(redis.url), name=name, address=f"{name}:9000")
        stack.push_async_callback(roster.close)
        loader = OnnxLoader(manager.fork_server, ModelOptions())
        # Without news it would look too late for any test.
        models = Models(stored, loader, manager.registry, sync_every=LONG * 60, report=roster.report)
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


async def test_a_model_is_unloaded_and_loaded_on_all_replicas(
    publisher: Publisher, redis: RedisServer, make_linear: Make
) -> None:
    async with replica("a", publisher, redis) as here, replica("b", publisher, redis) as there:
        await here.publish(publisher, "v1", make_linear(), "production")
        unloaded = await here.ask_for("unload")
        refused = await there.refusal()
        resident = there.resident_bytes()
        async with replica("c", publisher, redis) as late:
            refused_late = await late.refusal()
        loaded = await there.ask_for("load")

        assert told(unloaded) == [("a", LIVE), ("b", LIVE)]
        assert (refused, refused_late, resident) == ("MODEL_UNLOADED", "MODEL_UNLOADED", 0)
        assert told(loaded) == [("b", LIVE), ("a", LIVE)]
        assert (await here.refusal(), await there.refusal()) == ("", "")
        assert here.resident_bytes() > 0


async def test_an_alias_that_moves_lets_calls_in_on_all_replicas(
    publisher: Publisher, redis: RedisServer, make_linear: Make
) -> None:
    async with replica("a", publisher, redis) as here, replica("b", publisher, redis) as there:
        await here.publish(publisher, "v1", make_linear(), "production")
        await here.publish(publisher, "v2", make_linear())
        await here.ask_for("unload")
        await there.point("production", "v2")
        async with replica("c", publisher, redis) as late:
            after = [await each.refusal() for each in (here, there, late)]

        assert after == ["", "", ""]


async def test_a_replica_that_cannot_load_a_model_says_why(
    publisher: Publisher, redis: RedisServer, make_linear: Make
) -> None:
    async with replica("a", publisher, redis) as here:
        await here.publish(publisher, "v1", make_linear(), "production")
        async with replica("b", publisher, redis, trusted=TrustedKeys()):
            statuses = await here.ask_for("load")

        assert told(statuses) == [("a", LIVE), ("b", REFUSED)]
        assert statuses[1].message


async def test_two_that_ask_at_once_are_one_after_the_other(publisher: Publisher) -> None:
    records = LoadRecords(publisher.objects, clock=utc_now)
    asked = await asyncio.gather(
        *(records.set("default", "colours", loaded=bool(number % 2), by="tester") for number in range(12))
    )
    last = max(asked, key=lambda loading: loading.number)

    assert sorted(loading.number for loading in asked) == list(range(1, 13))
    assert await records.get("default", "colours") == last
    await records.set("default", "colours", loaded=True, by="tester")
    assert len(await publisher.objects.list("default/agent-loading/colours")) == 8


async def test_a_key_is_compromised_on_all_replicas_when_the_answer_comes(
    publisher: Publisher, redis: RedisServer, make_linear: Make
) -> None:
    signer = await publisher.enrolled(ADA)
    publishers = publisher.publishers()
    async with replica("a", publisher, redis) as here, replica("b", publisher, redis) as there:
        await publisher.put("v1", make_linear(), signer=signer)
        done = await here.models.changes.publish(
            "colours",
            "v1",
            sha256=hashlib.sha256(make_linear()).hexdigest(),
            aliases=["production"],
            tenant="default",
            by="tester",
        )
        await here.roster.settled(done.change, within=LONG)
        before = [one.serves() for one in (here, there)]
        revoked = await publishers.revoke(ADA, signer.key_id, compromised=True)
        first = await here.roster.settled(revoked.change, within=LONG)
        after = there.serves()
        again = await publishers.revoke(ADA, signer.key_id, compromised=True)
        second = await here.roster.settled(again.change, within=LONG)

    assert (before, after) == (["v1", "v1"], "")
    assert [told(answer) for answer in (first, second)] == [[("a", LIVE), ("b", LIVE)]] * 2


async def test_whoever_changes_something_through_one_agent_is_told_of_both(
    tmp_path: Path, make_linear: Make
) -> None:
    names = [{"advertise": f"host-{number}:1"} for number in range(2)]
    async with fleet_in(tmp_path, names) as fleet:
        objects = ObjectStore.open(f"file://{tmp_path / 'store'}")
        store = ModelStore(objects, Signer.load(tmp_path / "signing.key"), TrustedKeys())
        manifest = await store.publish(
            "default", "colours", "v1", make_linear(), format="onnx", provenance={"domain": "rows"}
        )
        models = model_grpc.ModelServiceStub(fleet.channel("admin"))
        published = await models.PublishModelVersion(
            model_pb.PublishModelVersionRequest(
                parent="models/colours", version="v1", sha256=manifest.sha256, aliases=["production"]
            )
        )
        other = agent_grpc.AgentServiceStub(fleet.channel(agent=1))
        rows = action("colours", input=[[1, 0, 0, 0]])
        answer = await other.Dispatch(rows)
        moved = await models.SetAlias(
            model_pb.SetAliasRequest(model="models/colours", alias="candidate", version="v1")
        )
        await repository(fleet, "RepositoryModelUnload")
        refused = await failure(other.Dispatch(rows))
        await repository(fleet, "RepositoryModelLoad")
        again = await other.Dispatch(rows)
        ghost = Roster(connect(fleet.redis_url), name="ghost")
        await ghost._renew()
        lagging = await failure(repository(fleet, "RepositoryModelLoad", timeout=1))
        await ghost.close()

    live = replica_pb2.ReplicaStatus.STATE_LIVE
    expected = [
        replica_pb2.ReplicaStatus(replica=f"agent-{number}", address=f"host-{number}:1", state=live)
        for number in range(2)
    ]
    assert list(published.replicas) == list(moved.replicas) == expected
    assert answer.model_version == again.model_version == "models/colours/versions/v1"
    assert refused == (ErrorKind.FAILED_PRECONDITION, "MODEL_UNLOADED")
    assert lagging == (ErrorKind.ABORTED, "REPLICAS_LAG")


async def repository(fleet: Fleet, method: str, *, timeout: float = 60) -> None:  # noqa: ASYNC109
    request, answer = TYPES[method]
    call = fleet.channel("admin").unary_unary(
        f"/{SERVICE}/{method}",
        request_serializer=request.SerializeToString,
        response_deserializer=answer.FromString,
    )
    await call(request(model_name="colours"), timeout=timeout)
