"""AgentManager: tools in process, with their schemas, results and refusals."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

from aegis_agent import AgentManager, AsyncContext, Part
from aegis_agent.domain.errors import (
    InvalidTool,
    InvalidToolInput,
    InvalidToolOutput,
    ManagerClosed,
    ToolFailed,
    ToolNameTaken,
    ToolOutputTooLarge,
    ToolTimeout,
    UnknownTool,
)
from aegis_agent.testing import tools
from aegis_common.errors import InvalidArgument

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_sync_function_runs_in_another_process(manager: AgentManager) -> None:
    manager.register_tool("own_pid", tools.own_pid)

    assert await manager.dispatch("own_pid", {}) != os.getpid()


async def test_defaults_are_filled_in(manager: AgentManager) -> None:
    manager.register_tool("add", tools.add)

    assert (await manager.dispatch("add", {"a": 2}), await manager.dispatch("add", {"a": 2, "b": 5})) == (
        3,
        7,
    )


async def test_models_go_in_and_out(manager: AgentManager) -> None:
    manager.register_tool("count_items", tools.count_items)

    result = await manager.dispatch("count_items", {"items": [{"name": "pear", "count": 2}]})

    assert result == {"items": [{"name": "pear", "count": 2}], "total": 2}


async def test_raw_bytes_go_in_and_out(manager: AgentManager) -> None:
    manager.register_tool("join", tools.join)

    result = await manager.dispatch("join", [Part(b"\x00\xff"), Part("tail", name="text")])

    assert result == b"\x00\xfftail"


async def test_base64_text_of_a_bytes_parameter_is_decoded(manager: AgentManager) -> None:
    manager.register_tool("join", tools.join)

    assert await manager.dispatch("join", {"data": "AP8=", "extra": "/w=="}) == b"\x00\xff\xff"


async def test_dates_and_tuples_come_back_as_json(manager: AgentManager) -> None:
    manager.register_tool("describe_day", tools.describe_day)

    result = await manager.dispatch("describe_day", {"day": "2026-11-25"})

    assert result == {"day": "2026-11-25", "raw": b"\x00\xff", "values": [1, 2]}


async def test_schemas_come_from_type_hints(manager: AgentManager) -> None:
    spec = manager.register_tool("join", tools.join)

    assert spec.input_schema == {
        "type": "object",
        "additionalProperties": False,
        "required": ["data"],
        "properties": {
            "data": {"type": "string", "contentEncoding": "base64"},
            "text": {"type": "string", "default": ""},
            "extra": {
                "anyOf": [{"type": "string", "contentEncoding": "base64"}, {"type": "null"}],
                "default": None,
            },
        },
    }
    assert spec.output_schema == {"type": "string", "contentEncoding": "base64"}


async def test_the_description_is_the_first_paragraph_of_the_docstring(manager: AgentManager) -> None:
    spec = manager.register_tool("count_items", tools.count_items)

    assert spec.description == "Counts the items of a basket."


async def test_options_of_the_decorator_count_and_can_be_changed(manager: AgentManager) -> None:
    spec = manager.register_tool("double", tools.double, concurrency=5)

    assert (spec.version, spec.description, spec.idempotent, spec.concurrency) == (
        "2.1.0", "Doubles.", True, 5,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("payload", "path", "rule"),
    [
        ({"items": [{"name": "pear", "count": "two"}]}, "items[0].count", "type"),
        ({"items": [{"name": "pear", "count": -1}]}, "items[0].count", "minimum"),
        ({"items": [{"count": 1}]}, "items[0].name", "required"),
        ({"items": [], "kind": "none"}, "kind", "enum"),
        ({"items": [], "colour": 1}, "colour", "additionalProperties"),
        ({}, "items", "required"),
    ],
)
async def test_bad_input_names_path_and_rule(
    manager: AgentManager, payload: dict[str, object], path: str, rule: str
) -> None:
    manager.register_tool("count_items", tools.count_items)

    with pytest.raises(InvalidToolInput) as caught:
        await manager.dispatch("count_items", payload)

    assert (caught.value.metadata["path"], caught.value.metadata["rule"]) == (path, rule)
    assert path in caught.value.violations


async def test_what_only_the_type_refuses_is_bad_input_too(manager: AgentManager) -> None:
    manager.register_tool("describe_day", tools.describe_day)

    with pytest.raises(InvalidToolInput) as caught:
        await manager.dispatch("describe_day", {"day": "2026-02-31"})

    assert caught.value.metadata["path"] == "day"


async def test_a_tool_can_refuse_its_input(manager: AgentManager) -> None:
    manager.register_tool("refuse", tools.refuse)

    with pytest.raises(InvalidToolInput) as caught:
        await manager.dispatch("refuse", {"value": 13})

    assert caught.value.violations == {"value": "luck: 13 is unlucky"}


async def test_not_a_number_is_bad_input(manager: AgentManager) -> None:
    manager.register_tool("ratio", tools.ratio)

    with pytest.raises(InvalidToolInput):
        await manager.dispatch("ratio", {"share": float("nan")})


async def test_an_error_of_the_tool_is_told_without_a_traceback(manager: AgentManager) -> None:
    manager.register_tool("fail", tools.fail)

    with pytest.raises(ToolFailed) as caught:
        await manager.dispatch("fail", {})

    assert caught.value.message == "tool 'fail' failed: ValueError: no luck"


async def test_a_tool_that_fails_keeps_its_process(manager: AgentManager) -> None:
    manager.register_tool("refuse", tools.refuse)
    manager.register_tool("fail", tools.fail)
    for _ in range(3):
        with pytest.raises(ToolFailed):
            await manager.dispatch("fail", {})


@pytest.mark.parametrize("function", [tools.wrong_type, tools.not_a_number])
async def test_a_result_that_breaks_the_schema_is_refused(
    manager: AgentManager, function: Callable[..., object]
) -> None:
    manager.register_tool("bad", function)

    with pytest.raises(InvalidToolOutput, match=r"the result: (?!the result:)"):
        await manager.dispatch("bad", {})


async def test_an_unknown_tool_names_near_ones(manager: AgentManager) -> None:
    manager.register_tool("count_items", tools.count_items)

    with pytest.raises(UnknownTool) as caught:
        await manager.dispatch("count_item", {})

    assert caught.value.metadata == {"tool": "count_item", "near": "count_items"}


async def test_async_tools_run_in_the_loop_and_end_at_the_deadline(manager: AgentManager) -> None:
    manager.register_tool("wait", tools.wait)

    assert await manager.dispatch("wait", {"seconds": 0}) == 0
    with pytest.raises(ToolTimeout):
        await manager.dispatch("wait", {"seconds": 600}, timeout=0.05)


async def test_calls_that_a_call_makes_end_with_it(manager: AgentManager) -> None:
    async def inner(context: AsyncContext) -> float:
        return context.time_left()

    async def outer() -> list[float]:
        return [await manager.dispatch("inner", {}, timeout=timeout) for timeout in (1, 100)]

    manager.register_tool("inner", inner)
    manager.register_tool("outer", outer)

    short, long = await manager.dispatch("outer", {}, timeout=30)
    assert short <= 1 < long <= 30
    assert 30 < await manager.dispatch("inner", {}, timeout=100) <= 100


async def test_a_timeout_error_of_the_tool_is_not_the_deadline(manager: AgentManager) -> None:
    manager.register_tool("async_fail", tools.async_fail)

    with pytest.raises(ToolFailed) as caught:
        await manager.dispatch("async_fail", {})

    assert caught.value.metadata["error"] == "TimeoutError"


@pytest.mark.parametrize("function", [tools.make_bytes, tools.async_bytes])
async def test_too_much_output_is_refused(manager: AgentManager, function: Callable[..., object]) -> None:
    manager.register_tool("make", function)

    assert len(await manager.dispatch("make", {"size": 1 << 20})) == 1 << 20
    with pytest.raises(ToolOutputTooLarge) as caught:
        await manager.dispatch("make", {"size": 65 << 20})
    assert caught.value.metadata["max_bytes"] == str(64 << 20)


async def test_a_batch_gives_one_outcome_each_in_order(manager: AgentManager) -> None:
    for name in ("add", "fail", "spin", "wait"):
        manager.register_tool(name, getattr(tools, name))

    outcomes = await manager.dispatch_multimodal(
        [
            {"tool": "wait", "payload": {"seconds": 0.3}},
            {"tool": "fail"},
            {"tool": "spin", "timeout": 0.2},
            {"tool": "nothing"},
            {"tool": "add", "payload": {"a": "x"}},
            {"tool": "add", "payload": {"a": 1}},
        ],
        timeout=30,
        concurrency=3,
    )

    shown = [getattr(outcome, "reason", outcome) for outcome in outcomes]
    assert shown == [0.3, "TOOL_FAILED", "TOOL_TIMEOUT", "UNKNOWN_TOOL", "INVALID_TOOL_INPUT", 2]


async def test_the_time_of_a_batch_bounds_all_of_it(manager: AgentManager) -> None:
    manager.register_tool("wait", tools.wait)

    outcomes = await manager.dispatch_multimodal(
        [{"tool": "wait", "payload": {"seconds": 600}}] * 3, timeout=0.2, concurrency=1
    )

    assert [outcome.reason for outcome in outcomes] == ["TOOL_TIMEOUT"] * 3
    assert [outcome.metadata["phase"] for outcome in outcomes] == ["run", "queue", "queue"]


@pytest.mark.parametrize("action", [{}, {"tool": "add", "input": {}}, {"tool": 3}, "add", 3])
async def test_a_malformed_action_is_refused_as_a_whole(manager: AgentManager, action: Any) -> None:
    with pytest.raises(InvalidArgument, match=r"actions\[0\]: .*; give tool, payload and timeout"):
        await manager.dispatch_multimodal([action])


@pytest.mark.parametrize("payload", [None, 3, ["x"], {"a"}])
async def test_a_payload_that_is_no_input_is_refused_with_what_is(
    manager: AgentManager, payload: Any
) -> None:
    manager.register_tool("wait", tools.wait)

    with pytest.raises(InvalidToolInput, match=r"payload: is .*; give arguments by name"):
        await manager.dispatch("wait", payload)


async def test_a_closed_manager_says_so_at_once() -> None:
    closed = AgentManager()
    closed.register_tool("wait", tools.wait)
    await closed.close()
    await closed.close()

    with pytest.raises(ManagerClosed):
        await closed.dispatch("wait", {"seconds": 0})
    with pytest.raises(ManagerClosed):
        await closed.dispatch_multimodal([{"tool": "wait"}])
    with pytest.raises(ManagerClosed):
        async with closed.stream("wait", {"seconds": 0}):
            pass
    with pytest.raises(ManagerClosed):
        closed.register_tool("add", tools.add)


@pytest.mark.parametrize(("option", "value"), [("child_slots", 0), ("cache_bytes", -1)])
async def test_a_manager_without_any_room_is_refused(option: str, value: int) -> None:
    with pytest.raises(InvalidArgument, match=f"{option} is {value}"):
        AgentManager(**{option: value})  # type: ignore[arg-type]  # either is a number


async def test_a_name_can_be_taken_once(manager: AgentManager) -> None:
    manager.register_tool("add", tools.add)

    with pytest.raises(ToolNameTaken):
        manager.register_tool("add", tools.add)


async def test_what_cannot_be_a_tool_is_refused(manager: AgentManager) -> None:
    def inner(a: int) -> int:
        return a

    def star(*args: int) -> int:
        return len(args)

    async def odd(a: threading.Thread) -> int:
        return 1

    with pytest.raises(InvalidTool, match=r"schema for <class 'threading.Thread'>; JSON types, bytes"):
        manager.register_tool("odd", odd)
    for name, function in (("inner", inner), ("lambda", lambda: 1), ("star", star), ("Big", tools.add)):
        with pytest.raises(InvalidTool):
            manager.register_tool(name, function)
    with pytest.raises(InvalidTool):
        manager.register_tool("add", tools.add, concurrency=0)


async def test_a_tool_whose_warm_up_fails_says_why(manager: AgentManager) -> None:
    manager.register_tool("never_ready", tools.never_ready)

    with pytest.raises(ToolFailed) as caught:
        await manager.dispatch("never_ready", {})

    assert "RuntimeError: the model is missing" in caught.value.message
