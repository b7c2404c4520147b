"""The domain by itself: admission, registry, parts, and what is told about errors."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest

from aegis_agent.domain.call import Arguments, Call, Caller, Chunk, Priority
from aegis_agent.domain.dispatch import Action, Dispatcher
from aegis_agent.domain.errors import (
    InvalidTool,
    InvalidToolInput,
    ToolCrashed,
    ToolNameTaken,
    ToolTimeout,
    UnknownTool,
)
from aegis_agent.domain.offload import count
from aegis_agent.domain.parts import Part, arguments_of
from aegis_agent.domain.registry import Registry
from aegis_agent.domain.result import Result
from aegis_agent.domain.slots import Slots
from aegis_agent.domain.tool import RunsIn, Tool, ToolSpec

TEXT = {"type": "string"}
BYTES = {"type": "string", "contentEncoding": "base64"}
OPTIONAL_BYTES = {"anyOf": [BYTES, {"type": "null"}]}


def spec(name: str = "tool", *, properties: Mapping[str, Any] | None = None, **changes: Any) -> ToolSpec:
    schema = {"type": "object", "properties": properties or {}}
    fields = {"description": "", "version": "1", "input_schema": schema, "output_schema": {}} | changes
    return ToolSpec(name=name, **fields)


A = Caller(tenant="a")
B = Caller(tenant="b")


class Gate:
    """A runner whose calls end when the test says so."""

    def __init__(self) -> None:
        self.started = 0
        self.closed = False
        self.open = asyncio.Event()

    async def run(self, call: Call) -> Any:
        self.started += 1
        await self.open.wait()
        return call.arguments

    async def close(self) -> None:
        self.closed = True


class AnyValue:
    def input(self, arguments: Arguments) -> Arguments:
        return arguments

    def output(self, value: Any) -> None:
        pass


def gated(name: str = "tool", **changes: Any) -> tuple[Tool, Gate]:
    gate = Gate()
    return Tool(spec=spec(name, **changes), runner=gate, checks=AnyValue()), gate


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_call_whose_time_is_over_is_not_started() -> None:
    tool, gate = gated()
    registry = Registry()
    registry.add(tool)

    with pytest.raises(ToolTimeout) as caught:
        await Dispatcher(registry).dispatch(Action("tool", {}), caller=A, time_left=timedelta(0))

    assert (caught.value.metadata["phase"], gate.started) == ("queue", 0)


async def test_the_time_of_a_call_is_the_shortest_of_all() -> None:
    tool, _ = gated(default_timeout=timedelta(seconds=20), max_timeout=timedelta(milliseconds=20_000))
    registry = Registry()
    registry.add(tool)

    async def told(own: timedelta | None, left: timedelta | None) -> str:
        with pytest.raises(ToolTimeout) as caught:
            await Dispatcher(registry).dispatch(Action("tool", {}, own), caller=A, time_left=left)
        return caught.value.metadata["timeout_s"]

    short, long = timedelta(milliseconds=10), timedelta(minutes=5)
    assert [await told(short, None), await told(short, long), await told(None, short)] == ["0.01"] * 3


async def test_a_call_that_had_the_longest_time_of_its_tool_is_told_so() -> None:
    tool, _ = gated(default_timeout=timedelta(milliseconds=5), max_timeout=timedelta(milliseconds=10))
    registry = Registry()
    registry.add(tool)

    async def told(own: timedelta | None) -> tuple[bool, str]:
        with pytest.raises(ToolTimeout) as caught:
            await Dispatcher(registry).dispatch(Action("tool", {}, own), caller=A)
        return "the longest time of its calls" in caught.value.message, caught.value.metadata["max_timeout_s"]

    assert [await told(None), await told(timedelta(seconds=9))] == [(False, "0.01"), (True, "0.01")]


async def test_calls_in_children_share_the_slots_of_all_tools_by_priority() -> None:
    registry = Registry()
    gates = {}
    for name, priority in (("first", Priority.NORMAL), ("low", Priority.LOW), ("high", Priority.HIGH)):
        tool, gates[name] = gated(name, priority=priority)
        registry.add(tool)
    waits, gates["waits"] = gated("waits", runs_in=RunsIn.LOOP)
    registry.add(waits)
    dispatcher = Dispatcher(registry, shared=Slots(1, size=None, weights={}))
    calls = []
    for name in ("first", "low", "high", "waits"):
        calls.append(asyncio.create_task(dispatcher.dispatch(Action(name, {}), caller=A)))
        await settle()

    def running() -> list[str]:
        return [name for name, gate in gates.items() if gate.started and not gate.open.is_set()]

    at_first = running()
    gates["first"].open.set()
    await settle()
    then = running()
    for gate in gates.values():
        gate.open.set()
    await asyncio.gather(*calls)

    assert (at_first, then) == (["first", "waits"], ["high", "waits"])


class Shaky:
    """A runner of a streaming tool whose process dies after some items, some times."""

    def __init__(self, *, items: int, times: int) -> None:
        self.attempts: list[int] = []
        self._items = items
        self._times = times

    async def run(self, call: Call) -> Any:
        self.attempts.append(call.attempt)
        for number in range(self._items):
            await call.sink(Chunk(number))
        if len(self.attempts) <= self._times:
            raise ToolCrashed("it ended by signal SIGSEGV", tool="tool")

    async def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("items", "times", "attempts", "ends_well"),
    [(0, 2, [1, 2, 3], True), (0, 3, [1, 2, 3], False), (1, 1, [1], False)],
)
async def test_a_call_whose_process_died_runs_again_unless_it_has_given_something(
    items: int, times: int, attempts: list[int], ends_well: bool
) -> None:
    runner = Shaky(items=items, times=times)
    registry = Registry()
    registry.add(Tool(spec=spec(idempotent=True, retries=2, streams=True), runner=runner, checks=AnyValue()))
    call = Dispatcher(registry).dispatch(Action("tool", {}), caller=A)
    (outcome,) = await asyncio.gather(call, return_exceptions=True)

    assert runner.attempts == attempts
    assert isinstance(outcome, Result if ends_well else ToolCrashed)


async def test_calls_on_a_replaced_tool_finish_before_it_closes() -> None:
    old, old_gate = gated(model="tool")
    new, new_gate = gated(model="tool")
    registry = Registry()
    assert registry.swap(old, tenant="a") is None
    call = asyncio.create_task(Dispatcher(registry).dispatch(Action("tool", {"x": 1}), caller=A))
    await settle()

    before = registry.swap(new, tenant="a")
    assert before is not None
    retiring = asyncio.create_task(before.retire())
    await settle()
    closed_early = old_gate.closed
    old_gate.open.set()
    result = await call
    await retiring

    assert (closed_early, old_gate.closed, new_gate.started) == (False, True, 0)
    assert (result.value, result.tool) == ({"x": 1}, old)


def test_a_name_of_everyone_cannot_be_a_tenants() -> None:
    registry = Registry()
    registry.add(gated("shared")[0])
    registry.swap(gated("own")[0], tenant="a")

    with pytest.raises(ToolNameTaken):
        registry.swap(gated("shared")[0], tenant="a")
    with pytest.raises(ToolNameTaken):
        registry.add(gated("own")[0])
    assert [tool.spec.name for tool in registry.tools(caller=A)] == ["own", "shared"]
    assert [tool.spec.name for tool in registry.tools(caller=B)] == ["shared"]


def test_near_names_are_those_that_the_tenant_may_see() -> None:
    registry = Registry()
    registry.swap(gated("secret_model")[0], tenant="a")

    with pytest.raises(UnknownTool) as caught:
        registry.find("secret_mode", caller=B)

    assert caught.value.metadata["near"] == ""


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([Part({"a": 1}), Part({"b": 2})], {"a": 1, "b": 2}),
        ([Part({"x": 1}, name="options")], {"options": {"x": 1}}),
        ([Part("hello")], {"text": "hello"}),
        ([Part("one"), Part("two")], {"text": "one", "more": "two"}),
        ([Part("two"), Part({"text": "one"})], {"text": "one", "more": "two"}),
        ([Part(b"\x00"), Part("hello")], {"data": b"\x00", "text": "hello"}),
        ([Part(b"\x00"), Part(b"\x01")], {"data": b"\x00", "mask": b"\x01"}),
        ([Part("raw", name="data")], {"data": b"raw"}),
        ([Part(b"\x00", name="mask")], {"mask": b"\x00"}),
        ([], {}),
        ("hello", {"text": "hello"}),
        (b"\x00", {"data": b"\x00"}),
    ],
)
def test_parts_become_arguments(parts: Any, expected: dict[str, Any]) -> None:
    properties = {
        "number": {"type": "integer"},
        "text": TEXT,
        "data": BYTES,
        "mask": OPTIONAL_BYTES,
        "more": TEXT,
    }

    assert arguments_of(parts, spec(properties=properties)) == expected


@pytest.mark.parametrize(
    ("parts", "path", "rule"),
    [
        ([Part("a"), Part("b")], "payload[1]", "parameter"),
        ([Part({"text": "a"}), Part("b", name="text")], "payload[1]", "duplicate"),
        ([Part(b"a")], "payload[0]", "parameter"),
    ],
)
def test_parts_that_fit_nowhere_are_refused(parts: list[Part], path: str, rule: str) -> None:
    with pytest.raises(InvalidToolInput) as caught:
        arguments_of(parts, spec(properties={"text": TEXT}))

    assert (caught.value.metadata["path"], caught.value.metadata["rule"]) == (path, rule)


def test_a_referred_schema_is_followed() -> None:
    tool = spec(
        input_schema={
            "properties": {"text": {"$ref": "#/$defs/Word"}},
            "$defs": {"Word": TEXT | {"enum": ["a"]}},
        }
    )

    assert arguments_of("a", tool) == {"text": "a"}


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "Big"},
        {"concurrency": 0},
        {"queue_size": -1},
        {"max_timeout": timedelta(hours=25)},
        {"default_timeout": timedelta(0)},
        {"default_timeout": timedelta(seconds=2), "max_timeout": timedelta(seconds=1)},
    ],
)
def test_a_tool_out_of_range_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidTool):
        spec(**changes)


def test_elements_are_counted_up_to_a_limit() -> None:
    assert (count({"a": [1, 2, {"b": 3}]}, 100), count([[0] * 50] * 50, 100), count("text", 100)) == (
        6,
        100,
        1,
    )
