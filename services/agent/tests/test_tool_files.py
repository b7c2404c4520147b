"""Tools that are put through the service: on every replica in one step, signed, never in the agent itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from services.agent.tests.agent_stack import action
from services.agent.tests.job_fleet import failure, fleet_in

from aegis.agent.v1 import agent_service_pb2_grpc as agent_grpc
from aegis.agent.v1 import replica_pb2
from aegis.agent.v1 import tool_file_service_pb2 as pb
from aegis.agent.v1 import tool_file_service_pb2_grpc as pb_grpc
from aegis_agent import AgentManager
from aegis_agent.adapters.jobs.connection import connect
from aegis_agent.adapters.replicas.roster import Roster
from aegis_agent.adapters.tool_files.host import FileHost
from aegis_agent.adapters.tool_files.records import StoredToolFiles
from aegis_agent.domain.errors import ToolNameTaken, UnknownTool
from aegis_agent.domain.replicas import ReplicaState, ReplicaStatus
from aegis_agent.domain.tool_files import (
    FileId,
    InvalidToolFile,
    ToolFile,
    ToolFiles,
    ToolFilesDisabled,
    TooManyToolFiles,
    UnknownToolFile,
)
from aegis_common.errors import AegisError, ConfigurationError, ErrorKind
from aegis_common.pki import new_ed25519
from aegis_common.signing import Signer
from aegis_common.store.errors import RecordSignatureInvalid
from aegis_common.store.objects import ObjectStore
from aegis_common.store.sealed import RecordSeal
from aegis_common.testing.redis import RedisServer

pytestmark = pytest.mark.asyncio(loop_scope="module")

LONG = timedelta(seconds=20)
LIVE, LAGGING, REFUSED, UNKNOWN = ReplicaState
GREET = FileId("default", "greet.py")
SOURCE = '''
import time
from aegis_agent import tool

@tool()
def greet(name: str) -> str:
    """Greets."""
    return "WORD " + name

@tool()
def slow() -> str:
    time.sleep(0.5)
    return "WORD"
'''
RECORDS = "aegis-system/agent-tool-files"


def saying(word: str) -> bytes:
    return SOURCE.replace("WORD", word).encode()


def only(name: str) -> bytes:
    return f"from aegis_agent import tool\n@tool()\ndef {name}() -> str: return {name!r}\n".encode()


class Replica:
    """One agent's tool files, and its place on the roster."""

    def __init__(self, files: ToolFiles, manager: AgentManager, roster: Roster) -> None:
        self.files, self.manager, self.roster = files, manager, roster

    async def put(self, source: bytes, *, file: FileId = GREET) -> list[ReplicaStatus]:
        done = await self.files.put(file, source, by="tester")
        return await self.roster.settled(done.change, within=LONG)

    async def remove(self, *, file: FileId = GREET) -> list[ReplicaStatus]:
        done = await self.files.remove(file, by="tester")
        return await self.roster.settled(done.change, within=LONG)

    async def call(self, tool: str = "greet", *, tenant: str = "default", **arguments: Any) -> Any:
        """Return a result, or the reason of the refusal."""
        arguments = arguments or ({"name": "Ada"} if tool == "greet" else {})
        try:
            return await self.manager.dispatch(tool, arguments, tenant=tenant)
        except AegisError as error:
            return error.reason


class Managers:
    """A manager for each replica, which tests use one after the other: what children come from takes long."""

    def __init__(self) -> None:
        self.made: dict[str, AgentManager] = {}

    @asynccontextmanager
    async def empty(self, name: str) -> AsyncIterator[AgentManager]:
        manager = self.made.setdefault(name, AgentManager())
        yield manager
        for owner, owned in manager.registry._tools.items():
            for tool in tuple(owned):
                await asyncio.shield(manager.retire_tool(tool, owner=owner))


class World:
    """One store, one Redis, one records key."""

    def __init__(self, folder: Path, redis: RedisServer, managers: Managers) -> None:
        self.managers = managers
        self.folder = folder / "store"
        self.objects = ObjectStore.open(f"file://{self.folder}")
        self.redis = redis
        self.seal = RecordSeal(Signer(new_ed25519(folder / "records.key")))

    @asynccontextmanager
    async def replica(self, name: str = "a", *, seal: RecordSeal | None = None) -> AsyncIterator[Replica]:
        async with self.managers.empty(name) as manager, AsyncExitStack() as stack:
            roster = Roster(connect(self.redis.url), name=name)
            stack.push_async_callback(roster.close)
            host = await stack.enter_async_context(FileHost(manager, children_only=True))
            records = StoredToolFiles(self.objects, seal or self.seal)
            # Without news it would look too late for any test.
            files = ToolFiles(records, host, report=roster.report, every=timedelta(hours=1))
            roster.listen(files.look_soon)
            await files.look()
            following = asyncio.create_task(files.keep_in_step())
            stack.callback(following.cancel)
            await stack.enter_async_context(roster.joined())
            yield Replica(files, manager, roster)


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def managers() -> AsyncIterator[Managers]:
    made = Managers()
    yield made
    await asyncio.gather(*(manager.close() for manager in made.made.values()))


@pytest.fixture
def world(tmp_path: Path, redis: RedisServer, managers: Managers) -> World:
    return World(tmp_path, redis, managers)


@pytest_asyncio.fixture(loop_scope="module")
async def alone(world: World) -> AsyncIterator[Replica]:
    async with world.replica() as made:
        yield made


def told(statuses: list[ReplicaStatus]) -> list[tuple[str, ReplicaState]]:
    return [(status.replica, status.state) for status in statuses]


async def test_a_file_that_one_replica_takes_is_served_by_both_when_the_answer_comes(world: World) -> None:
    async with world.replica("a") as here, world.replica("b") as there:
        added = await here.put(saying("hello"))
        first = [await each.call() for each in (here, there)]
        running = asyncio.create_task(there.call("slow"))
        await asyncio.sleep(0.1)
        replaced = await here.put(saying("good evening"))
        second = [await each.call() for each in (here, there)]
        removed = await there.remove()
        third = [await each.call() for each in (here, there)]

        assert told(added) == told(replaced) == [("a", LIVE), ("b", LIVE)]
        assert told(removed) == [("b", LIVE), ("a", LIVE)]
        assert first == ["hello Ada"] * 2
        assert second == ["good evening Ada"] * 2
        assert third == ["UNKNOWN_TOOL"] * 2
        assert await running == "hello"  # it ended on the version that it began with


async def test_a_replica_that_starts_later_serves_what_was_put_and_nothing_that_was_removed(
    world: World,
) -> None:
    async with world.replica("a") as here:
        await here.put(saying("hello"))
        await here.put(only("gone"), file=FileId("default", "gone.py"))
        await here.remove(file=FileId("default", "gone.py"))
    async with world.replica("b") as there:
        found = await there.call(), await there.call("gone")

    assert found == ("hello Ada", "UNKNOWN_TOOL")


async def test_a_replica_where_something_else_has_the_name_says_so(world: World) -> None:
    async def greet() -> str:
        return "mine"

    async with world.replica("a") as here, world.replica("b") as there:
        there.manager.register_tool("greet", greet)
        statuses = await here.put(saying("hello"))
        other = await here.put(only("other"), file=FileId("default", "other.py"))

        assert told(statuses) == [("a", LIVE), ("b", REFUSED)]
        assert "'greet'" in statuses[1].message
        assert told(other) == [("a", LIVE), ("b", LIVE)]  # one that is broken harms no other
        assert await there.manager.dispatch("greet", {}) == "mine"


async def test_a_tenant_sees_its_own_files_and_tools_only(alone: Replica) -> None:
    theirs = FileId("blue", "greet.py")
    await alone.put(saying("hello"))
    await alone.put(saying("blue"), file=theirs)
    before = await alone.call(), await alone.call(tenant="blue"), await alone.call(tenant="red")
    await alone.remove(file=theirs)

    assert before == ("hello Ada", "blue Ada", "UNKNOWN_TOOL")
    assert (await alone.call(), await alone.call(tenant="blue")) == ("hello Ada", "UNKNOWN_TOOL")
    assert [item.file for item in await alone.files.files(owner="default")] == [GREET]
    assert await alone.files.files(owner="blue") == []


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        (b"x = 1\n\ndef broken(:\n", "greet.py, line 3: SyntaxError"),
        (b"x = 1\nraise ValueError('not today')", "greet.py, line 2: ValueError: not today"),
        (b"import os\nos._exit(3)", "exit status 3"),
        (b"x = 1", "no function that is marked with @tool"),
        (b"from aegis_agent import tool\n@tool()\nasync def greet() -> str: return ''", "make it a `def`"),
        (b"from aegis_agent import tool\n@tool(concurrency=0)\ndef greet(): ...", "concurrency is below 1"),
    ],
)
async def test_a_file_that_cannot_be_served_is_refused_with_the_line_and_not_stored(
    alone: Replica, world: World, source: bytes, fault: str
) -> None:
    await alone.put(saying("hello"))
    with pytest.raises(InvalidToolFile) as caught:
        await alone.put(source)

    assert fault in caught.value.message
    assert await alone.call() == "hello Ada"
    assert len(await world.objects.list(RECORDS)) == 1


async def test_a_file_cannot_take_the_name_of_another_tool(alone: Replica, world: World) -> None:
    await alone.put(saying("hello"))
    with pytest.raises(ToolNameTaken):
        await alone.put(saying("mine"), file=FileId("default", "other.py"))

    assert await alone.call() == "hello Ada"
    assert len(await world.objects.list(RECORDS)) == 1


async def test_what_nobody_signed_is_not_served(world: World) -> None:
    async with world.replica("a") as here:
        await here.put(saying("hello"))
    record = world.folder / RECORDS / "default/greet/0000000001.json"
    other = world.folder / RECORDS / "blue/greet/0000000001.json"
    other.parent.mkdir(parents=True)
    other.write_bytes(record.read_bytes())
    stranger = RecordSeal(Signer(new_ed25519(world.folder / "stranger.key")))
    async with world.replica("b") as moved, world.replica("c", seal=stranger) as foreign:
        found = await moved.call(), await moved.call(tenant="blue"), await foreign.call()
        listed = await foreign.files.files(owner="default")
        with pytest.raises(RecordSignatureInvalid):
            await foreign.files.file(GREET)

    assert (found, listed) == (("hello Ada", "UNKNOWN_TOOL", "UNKNOWN_TOOL"), [])


async def test_a_source_that_was_changed_in_the_store_is_not_served(world: World) -> None:
    async with world.replica("a") as here:
        await here.put(saying("hello"))
    (source,) = await world.objects.list("aegis-system/agent-tool-sources")
    (world.folder / source).write_bytes(saying("evil"))
    async with world.replica("b") as there:
        found = await there.call()

    assert found == "UNKNOWN_TOOL"


async def test_a_record_that_somebody_removed_brings_no_older_version_back(world: World) -> None:
    async with world.replica("a") as here:
        await here.put(saying("old"))
        await here.put(saying("new"))
        (world.folder / RECORDS / "default/greet/0000000002.json").unlink()
        await here.files.look()
        found = await here.call()

    assert found == "new Ada"


async def test_of_those_who_write_at_once_one_is_the_last_and_the_last_changes_are_kept(world: World) -> None:
    records = StoredToolFiles(world.objects, world.seal)
    written = await asyncio.gather(
        *(records.write(GREET, saying(f"{number}"), tools=["greet"], by="tester") for number in range(12))
    )
    last = max(written, key=lambda item: item.number)
    kept = sorted(int(key[-15:-5]) for key in await world.objects.list(RECORDS))

    assert sorted(item.number for item in written) == list(range(1, 13))
    assert kept[-8:] == list(range(5, 13))
    assert await records.read(GREET, (await records.newest())[GREET]) == last
    assert await records.source(last) == saying(f"{written.index(last)}")


async def test_files_of_a_tenant_are_bounded(alone: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aegis_agent.domain.tool_files.MAX_FILES", 1)
    await alone.put(saying("hello"))
    with pytest.raises(TooManyToolFiles):
        await alone.put(only("other"), file=FileId("default", "other.py"))
    await alone.put(saying("again"))

    assert await alone.call() == "again Ada"


async def test_what_is_not_there_cannot_be_read_or_removed(alone: Replica) -> None:
    with pytest.raises(UnknownToolFile):
        await alone.files.file(GREET)
    with pytest.raises(UnknownToolFile):
        await alone.files.remove(GREET, by="tester")


async def test_without_leave_nothing_can_be_put_or_read(manager: AgentManager) -> None:
    async with FileHost(manager) as host:
        files = ToolFiles(None, host)
        await files.look()
        with pytest.raises(ToolFilesDisabled, match="AEGIS_AGENT_TOOL_FILES"):
            await files.put(GREET, saying("hello"), by="tester")
        with pytest.raises(ToolFilesDisabled):
            await files.files(owner="default")
    with pytest.raises(UnknownTool):
        await manager.dispatch("greet", {"name": "Ada"})


async def test_a_file_with_an_unforeseen_fault_harms_no_other(world: World) -> None:
    class Falling(StoredToolFiles):
        async def source(self, found: ToolFile) -> bytes:
            if found.file == GREET:
                raise ZeroDivisionError
            return await super().source(found)

    other = FileId("default", "other.py")
    async with world.replica("a") as here:
        await here.put(saying("hello"))
        await here.put(only("other"), file=other)
    async with world.managers.empty("b") as manager, FileHost(manager) as host:
        files = ToolFiles(Falling(world.objects, world.seal), host)
        await files.look()

        assert await manager.dispatch("other", {}) == "other"
        with pytest.raises(UnknownTool):
            await manager.dispatch("greet", {"name": "Ada"})


async def test_leave_without_a_key_to_sign_with_ends_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="records_key"):
        async with fleet_in(tmp_path, [{"tool_files": True}]):
            pass


async def test_the_service_puts_lists_reads_and_deletes_on_both_agents(tmp_path: Path) -> None:
    new_ed25519(tmp_path / "records.key")
    allowed = {"tool_files": True, "records_key": tmp_path / "records.key"}
    async with fleet_in(tmp_path, [allowed, allowed]) as fleet:
        stub = pb_grpc.ToolFileServiceStub(fleet.channel("admin"))
        tools = agent_grpc.AgentServiceStub(fleet.channel("admin", agent=1))
        name = "toolFiles/greet"
        put = await stub.PutToolFile(pb.PutToolFileRequest(name=name, source=saying("hello")))
        answer = await tools.Dispatch(action("greet", name="Ada"))
        listed = await stub.ListToolFiles(pb.ListToolFilesRequest())
        read = await stub.GetToolFile(pb.GetToolFileRequest(name=name))
        operator = pb_grpc.ToolFileServiceStub(fleet.channel("sdk"))
        refused = await failure(operator.PutToolFile(pb.PutToolFileRequest(name=name, source=b"x")))
        broken = await failure(stub.PutToolFile(pb.PutToolFileRequest(name=name, source=b"def (")))
        deleted = await stub.DeleteToolFile(pb.DeleteToolFileRequest(name=name))
        gone = await failure(tools.Dispatch(action("greet", name="Ada")))

    live = ["agent-0 STATE_LIVE", "agent-1 STATE_LIVE"]
    for answered in (put, deleted):
        names = replica_pb2.ReplicaStatus.State.Name
        assert [f"{item.replica} {names(item.state)}" for item in answered.replicas] == live
    assert answer.result[0].text == "hello Ada"
    assert list(put.tool_file.tools) == ["tools/greet", "tools/slow"]
    assert [item.name for item in listed.tool_files] == [name]
    assert (read.source, read.tool_file) == (saying("hello"), put.tool_file)
    assert refused[0] is ErrorKind.PERMISSION_DENIED
    assert broken == (ErrorKind.INVALID_ARGUMENT, "INVALID_TOOL_FILE")
    assert gone == (ErrorKind.NOT_FOUND, "UNKNOWN_TOOL")
