"""Tools that come and go while the agent runs: in process, and from a folder of files."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from aegis_agent import AgentManager
from aegis_agent.adapters.tool_files.folder import ToolFolder
from aegis_agent.adapters.tool_json import spec_from_json, spec_to_json
from aegis_agent.domain.call import Caller, Priority
from aegis_agent.domain.dispatch import Action
from aegis_agent.domain.errors import InvalidTool, ToolFailed, ToolNotAllowed, UnknownTool
from aegis_agent.domain.registry import EVERYONE, Change
from aegis_agent.domain.tool import RunsIn, ToolSpec
from aegis_agent.testing import tools
from aegis_common.errors import ConfigurationError

pytestmark = pytest.mark.asyncio(loop_scope="module")

NEVER = timedelta(hours=1)
ANYBODY = Caller()


async def old(seconds: float = 0.0) -> str:
    await asyncio.sleep(seconds)
    return "old"


async def new() -> str:
    return "new"


# In process.


async def test_a_tool_registered_while_calls_run_can_be_called_at_once(manager: AgentManager) -> None:
    manager.register_tool("wait", tools.wait)
    running = asyncio.create_task(manager.dispatch("wait", {"seconds": 600}))
    await asyncio.sleep(0)
    manager.register_tool("new", new)

    assert await manager.dispatch("new", {}) == "new"
    running.cancel()


async def test_an_upgrade_takes_new_calls_and_lets_the_old_ones_end(manager: AgentManager) -> None:
    manager.register_tool("tool", old)
    before = manager.registry.find("tool", caller=ANYBODY)
    running = asyncio.create_task(manager.dispatch("tool", {"seconds": 0.2}))
    await asyncio.sleep(0.01)
    spec = await manager.upgrade_tool("tool", new, version="2.0.0")
    found = await manager.dispatch("tool", {})

    assert (spec.version, found, await running) == ("2.0.0", "new", "old")
    assert not before.live


async def test_the_children_of_the_old_version_end_after_its_last_call(
    manager: AgentManager,
    is_alive: Callable[[int], bool],
    wait_until: Callable[[Callable[[], bool]], Awaitable[None]],
) -> None:
    manager.register_tool("tool", tools.own_pid)
    pid = await manager.dispatch("tool", {})
    await manager.upgrade_tool("tool", tools.own_pid_slowly)
    await wait_until(lambda: not is_alive(pid))

    assert await manager.dispatch("tool", {}) != pid


async def test_an_upgrade_that_cannot_be_set_up_changes_nothing(manager: AgentManager) -> None:
    manager.register_tool("tool", old)

    with pytest.raises(ToolFailed):
        await manager.upgrade_tool("tool", tools.never_ready)
    with pytest.raises(InvalidTool):
        await manager.upgrade_tool("tool", new, concurrency=0)
    assert await manager.dispatch("tool", {}) == "old"


async def test_a_removed_tool_takes_no_calls_and_ends_after_the_last_one(manager: AgentManager) -> None:
    manager.register_tool("tool", old)
    running = asyncio.create_task(manager.dispatch("tool", {"seconds": 0.1}))
    await asyncio.sleep(0.01)
    removing = asyncio.create_task(manager.remove_tool("tool"))
    await asyncio.sleep(0.01)

    with pytest.raises(UnknownTool):
        await manager.dispatch("tool", {})
    with pytest.raises(UnknownTool):
        await manager.remove_tool("tool")
    assert not removing.done()
    await removing
    assert (running.done(), await running) == (True, "old")


async def test_every_change_is_told_and_logged(
    manager: AgentManager, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "aegis_agent.manager")
    changes: list[Change] = []
    stop = manager.registry.listen(changes.append)
    manager.register_tool("tool", old)
    await manager.upgrade_tool("tool", new, version="2.0.0")
    await manager.remove_tool("tool")
    stop()
    manager.register_tool("other", old)

    versions = [
        tuple(item.tool.spec.version if item else "" for item in (change.before, change.after))
        for change in changes
    ]
    assert versions == [("", "1.0.0"), ("1.0.0", "2.0.0"), ("2.0.0", "")]
    messages = [record.message for record in caplog.records]
    assert messages[:3] == ["tool added", "tool replaced", "tool removed"]


async def test_calls_never_fail_while_a_tool_is_upgraded_again_and_again(manager: AgentManager) -> None:
    manager.register_tool("tool", old, concurrency=4, queue_size=100)
    results: list[object] = []

    async def caller() -> None:
        for _ in range(40):
            results.append(await manager.dispatch("tool", {}))
            await asyncio.sleep(0)

    async def upgrader() -> None:
        for number in range(20):
            await manager.upgrade_tool("tool", (old, new)[number % 2], concurrency=4, queue_size=100)

    await asyncio.gather(*(caller() for _ in range(4)), upgrader())

    assert len(results) == 160
    assert set(results) <= {"old", "new"}


# Who may use a tool.


async def test_a_tool_of_a_role_is_refused_to_others_and_not_listed(manager: AgentManager) -> None:
    manager.register_tool("tool", new, roles=["admin"])

    with pytest.raises(ToolNotAllowed) as caught:
        await manager.dispatch("tool", {}, roles=["viewer"])
    assert caught.value.metadata == {"tool": "tool", "roles": "admin"}
    assert manager.registry.tools(caller=ANYBODY) == []
    assert await manager.dispatch("tool", {}, roles=["admin", "viewer"]) == "new"


async def test_a_tool_of_a_tenant_does_not_exist_for_others(manager: AgentManager) -> None:
    manager.register_tool("tool", new, tenants=["red"])

    with pytest.raises(UnknownTool) as caught:
        await manager.dispatch("tol", {}, tenant="blue")
    assert caught.value.metadata["near"] == ""
    with pytest.raises(UnknownTool):
        await manager.dispatch("tool", {}, tenant="blue")
    assert await manager.dispatch("tool", {}, tenant="red") == "new"


@pytest.mark.parametrize(
    "options",
    [
        {"roles": "admin"},
        {"retries": 1},
        {"retries": 6, "idempotent": True},
        {"queue_timeout": timedelta(0)},
        {"grace": timedelta(seconds=11)},
    ],
)
async def test_options_out_of_range_are_refused(manager: AgentManager, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidTool):
        manager.register_tool("tool", new, **options)


async def test_a_call_may_lower_its_class_and_only_an_admin_may_raise_it(manager: AgentManager) -> None:
    seen: list[Priority] = []
    manager.register_tool("tool", old, concurrency=1)
    queue = manager.registry.find("tool", caller=ANYBODY).admission._slots.queue

    async def waiting(priority: Priority, *roles: str) -> None:
        action = Action("tool", {}, None, priority)
        call = asyncio.create_task(manager.dispatcher.dispatch(action, caller=Caller(roles=frozenset(roles))))
        await asyncio.sleep(0.01)
        seen.append(Priority(queue.counts().index(1)))
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)

    running = asyncio.create_task(manager.dispatch("tool", {"seconds": 600}))
    await asyncio.sleep(0.01)
    await waiting(Priority.LOW)
    await waiting(Priority.HIGH, "operator")
    await waiting(Priority.HIGH, "admin")
    running.cancel()

    assert seen == [Priority.LOW, Priority.NORMAL, Priority.HIGH]


async def test_an_idempotent_call_whose_process_died_is_started_again(
    manager: AgentManager, tmp_path: Path
) -> None:
    manager.register_tool("tool", tools.crash_at_first, idempotent=True, retries=2)

    assert await manager.dispatch("tool", {"marks": str(tmp_path), "times": 2}) == 3


# From a folder.

SYNC = '''
from aegis_agent import tool

@tool(idempotent=True, tags=["a"], memory_bytes=1 << 30)
def greet(name: str) -> str:
    """Greets."""
    return "{word} " + name

def helper() -> None: ...
'''
ASYNC = """
from collections.abc import AsyncIterator
from aegis_agent import tool

@tool()
async def count(to: int) -> AsyncIterator[int]:
    for number in range(to):
        yield number

@tool()
async def twice(value: int) -> int:
    return 2 * value
"""


class Folder:
    """A folder of tool files that is looked at when the test says so."""

    def __init__(self, manager: AgentManager, path: Path) -> None:
        self.manager = manager
        self.path = path
        self.watcher = ToolFolder(manager, path, interval=NEVER)

    async def write(self, name: str, text: str) -> None:
        (self.path / name).write_text(text)
        await self.watcher.look()

    def names(self) -> list[str]:
        return [tool.spec.name for tool in self.manager.registry.tools(caller=ANYBODY)]


@pytest_asyncio.fixture(loop_scope="module")
async def folder(manager: AgentManager, tmp_path: Path) -> AsyncIterator[Folder]:
    made = Folder(manager, tmp_path)
    async with made.watcher:
        yield made


async def test_a_file_brings_its_marked_functions(folder: Folder) -> None:
    await folder.write("greetings.py", SYNC.format(word="hello"))
    spec = folder.manager.registry.find("greet", caller=ANYBODY).tool.spec

    assert folder.names() == ["greet"]
    assert await folder.manager.dispatch("greet", {"name": "Ada"}) == "hello Ada"
    assert (spec.description, spec.idempotent, spec.tags, spec.runs_in) == (
        "Greets.", True, ("a",), RunsIn.CHILD,
    )  # fmt: skip


async def test_async_tools_of_a_file_run_in_the_loop_and_may_stream(folder: Folder) -> None:
    await folder.write("several.py", ASYNC)

    assert await folder.manager.dispatch("count", {"to": 3}) == [0, 1, 2]
    assert await folder.manager.dispatch("twice", {"value": 4}) == 8


async def test_a_changed_file_takes_the_place_of_the_old_one(folder: Folder) -> None:
    await folder.write("greetings.py", SYNC.format(word="hello"))
    await folder.write("greetings.py", SYNC.format(word="good evening"))

    assert await folder.manager.dispatch("greet", {"name": "Ada"}) == "good evening Ada"


async def test_what_a_changed_file_no_longer_has_is_taken_out(folder: Folder) -> None:
    await folder.write("several.py", ASYNC)
    await folder.write("several.py", ASYNC.replace("async def twice", "async def thrice"))

    assert folder.names() == ["count", "thrice"]


async def test_a_removed_file_takes_its_tools_along(folder: Folder) -> None:
    await folder.write("greetings.py", SYNC.format(word="hello"))
    (folder.path / "greetings.py").unlink()
    await folder.watcher.look()

    assert folder.names() == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("def broken(:", "SyntaxError"),
        ("raise ValueError('not today')", "not today"),
        ("import os\nos._exit(3)", "exit status 3"),
        ("x = 1", "no function that is marked with @tool"),
        ("from aegis_agent import tool\n@tool(concurrency=0)\ndef greet(): ...", "concurrency is below 1"),
        (
            "from aegis_agent import tool\n@tool(max_timeout=60)\ndef greet(): ...",
            "line 2: InvalidTool: max_timeout is 60",
        ),
        ("from aegis_agent import tool\n@tool()\ndef greet(*names: str): ...", "cannot be passed by name"),
        (
            "from aegis_agent import tool\ndef load(): raise OSError('no model')\n"
            "@tool(warm_up=load)\ndef greet() -> str: return ''",
            "no model",
        ),
    ],
)
async def test_a_broken_file_is_reported_and_the_old_version_goes_on(
    folder: Folder, text: str, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    await folder.write("greetings.py", SYNC.format(word="hello"))
    await folder.write("greetings.py", text)
    await folder.watcher.look()

    assert fault in folder.watcher.faults["greetings.py"]
    assert await folder.manager.dispatch("greet", {"name": "Ada"}) == "hello Ada"
    reports = [record for record in caplog.records if record.message == "tool file is not taken over"]
    assert len(reports) == 1

    await folder.write("greetings.py", SYNC.format(word="hi"))
    assert folder.watcher.faults == {}
    assert await folder.manager.dispatch("greet", {"name": "Ada"}) == "hi Ada"


async def test_a_file_cannot_take_the_name_of_another_tool(folder: Folder) -> None:
    folder.manager.register_tool("greet", new)
    await folder.write("greetings.py", SYNC.format(word="hello"))

    assert "there is a tool 'greet' already" in folder.watcher.faults["greetings.py"]
    assert await folder.manager.dispatch("greet", {}) == "new"


async def test_files_that_begin_with_an_underscore_are_left_alone(folder: Folder) -> None:
    await folder.write("_private.py", SYNC.format(word="hello"))

    assert (folder.names(), folder.watcher.faults) == ([], {})


async def test_the_folder_is_looked_at_again_and_again(
    manager: AgentManager, tmp_path: Path, wait_until: Callable[[Callable[[], bool]], Awaitable[None]]
) -> None:
    async with ToolFolder(manager, tmp_path, interval=timedelta(milliseconds=20)):
        (tmp_path / "several.py").write_text(ASYNC)
        await wait_until(lambda: manager.registry.owned("twice", owner=EVERYONE) is not None)

    assert await manager.dispatch("twice", {"value": 1}) == 2


async def test_a_folder_that_is_none_stops_the_start(manager: AgentManager, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        async with ToolFolder(manager, tmp_path / "nowhere"):
            pass


async def test_what_is_told_about_a_tool_survives_json() -> None:
    spec = ToolSpec(
        name="tool",
        description="Does.",
        version="3",
        input_schema={"type": "object"},
        output_schema={},
        queue_timeout=timedelta(seconds=1.5),
        priority=Priority.HIGH,
        roles=frozenset({"admin"}),
        tags=("a", "b"),
        grace=timedelta(seconds=1),
        runs_in=RunsIn.LOOP,
    )

    assert spec_from_json(spec_to_json(spec)) == spec
