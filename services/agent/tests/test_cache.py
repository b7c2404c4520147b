"""The result cache: made once, kept within bounds, dropped with its tool, never an error."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from aegis_agent import AgentManager
from aegis_agent.content import Artifact
from aegis_agent.domain.cache import key_of
from aegis_agent.domain.call import Caller
from aegis_agent.domain.content import Content
from aegis_agent.domain.dispatch import Action
from aegis_agent.domain.errors import InvalidTool, ToolFailed, ToolTimeout
from aegis_agent.domain.registry import Registration
from aegis_agent.domain.result import Result
from aegis_agent.domain.sizes import copy_of, size_of

GUARD_S = 30.0


class Oven:
    """A tool that counts how often it runs, and waits for the test where it is told to."""

    def __init__(self) -> None:
        self.runs = 0
        self.open = asyncio.Event()
        self.open.set()
        self.fails = 0

    async def bake(self, kind: str = "bread", size: int = 1) -> list[str]:
        self.runs += 1
        await self.open.wait()
        if self.fails:
            self.fails -= 1
            raise ValueError("burnt")
        return [kind] * size


@pytest.fixture
async def manager() -> AsyncIterator[AgentManager]:
    async with AgentManager(cache_bytes=10_000) as made:
        yield made


@pytest.fixture
def oven(manager: AgentManager) -> Oven:
    made = Oven()
    manager.register_tool("bake", made.bake, cacheable=True, concurrency=8)
    return made


async def result(
    manager: AgentManager, tenant: str = "default", limit_s: float | None = None, **arguments: Any
) -> Result:
    limit = None if limit_s is None else timedelta(seconds=limit_s)
    return await manager.dispatcher.dispatch(Action("bake", arguments, limit), caller=Caller(tenant=tenant))


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_the_same_input_runs_once_and_the_second_answer_says_so(
    manager: AgentManager, oven: Oven
) -> None:
    first = await result(manager, kind="cake")
    second = await result(manager, kind="cake")

    assert (oven.runs, first.value, second.value) == (1, ["cake"], ["cake"])
    assert (first.cached, second.cached) == (False, True)
    assert second.execution_time.total_seconds() == second.queue_time.total_seconds() == 0


async def test_another_input_or_tenant_is_another_result(manager: AgentManager, oven: Oven) -> None:
    for tenant, kind in (("a", "cake"), ("a", "pie"), ("b", "cake")):
        await result(manager, tenant, kind=kind)

    assert oven.runs == 3


async def test_a_tool_that_does_not_ask_for_it_is_not_cached(manager: AgentManager) -> None:
    oven = Oven()
    manager.register_tool("fresh", oven.bake)
    for _ in range(2):
        await manager.dispatch("fresh", {})

    assert oven.runs == 2


async def test_an_error_is_not_kept(manager: AgentManager, oven: Oven) -> None:
    oven.fails = 1
    with pytest.raises(ToolFailed):
        await result(manager)

    assert (await result(manager)).cached is False
    assert oven.runs == 2


async def test_callers_at_the_same_time_share_one_run(manager: AgentManager, oven: Oven) -> None:
    oven.open.clear()
    calls = [asyncio.create_task(result(manager)) for _ in range(5)]
    await settle()
    oven.open.set()
    found = await asyncio.gather(*calls)

    assert oven.runs == 1
    assert sorted(item.cached for item in found) == [False, True, True, True, True]


async def test_callers_at_the_same_time_share_the_tools_error(manager: AgentManager, oven: Oven) -> None:
    oven.open.clear()
    oven.fails = 1
    calls = [asyncio.create_task(result(manager)) for _ in range(3)]
    await settle()
    oven.open.set()
    found = await asyncio.gather(*calls, return_exceptions=True)

    assert (oven.runs, [type(item) for item in found]) == (1, [ToolFailed] * 3)


async def test_when_the_one_who_runs_it_is_cancelled_another_goes_on(
    manager: AgentManager, oven: Oven
) -> None:
    oven.open.clear()
    leader, *others = [asyncio.create_task(result(manager)) for _ in range(3)]
    await settle()
    leader.cancel()
    await settle()
    oven.open.set()
    async with asyncio.timeout(GUARD_S):
        found = await asyncio.gather(*others)

    assert (oven.runs, [item.value for item in found]) == (2, [["bread"]] * 2)


async def test_when_the_one_who_runs_it_is_out_of_time_another_goes_on(
    manager: AgentManager, oven: Oven
) -> None:
    oven.open.clear()
    leader = asyncio.create_task(result(manager, limit_s=0.05))
    await settle()
    other = asyncio.create_task(result(manager))
    with pytest.raises(ToolTimeout):
        await leader
    await settle()
    oven.open.set()
    async with asyncio.timeout(GUARD_S):
        found = await other

    assert (oven.runs, found.cached) == (2, False)


async def test_who_waits_for_another_keeps_to_its_own_deadline(manager: AgentManager, oven: Oven) -> None:
    oven.open.clear()
    leader = asyncio.create_task(result(manager))
    await settle()

    with pytest.raises(ToolTimeout):
        await result(manager, limit_s=0.05)
    oven.open.set()
    assert (await leader).value == ["bread"]


async def test_whoever_changes_a_result_changes_its_own(manager: AgentManager, oven: Oven) -> None:
    first = await result(manager)
    first.value.append("stone")
    second = await result(manager)
    second.value.append("stone")

    assert (await result(manager)).value == ["bread"]


async def test_an_upgrade_forgets_what_the_old_version_gave(manager: AgentManager, oven: Oven) -> None:
    await result(manager)
    newer = Oven()
    await manager.upgrade_tool("bake", newer.bake, cacheable=True)
    kept = len(manager.cache)
    found = await result(manager)

    assert (kept, newer.runs, found.cached, manager.cache.size > 0) == (0, 1, False, True)


async def test_what_the_old_version_still_makes_is_not_kept(manager: AgentManager, oven: Oven) -> None:
    oven.open.clear()
    call = asyncio.create_task(result(manager))
    await settle()
    await manager.upgrade_tool("bake", Oven().bake, cacheable=True)
    oven.open.set()
    await call

    assert (len(manager.cache), manager.cache.size) == (0, 0)


async def test_the_cache_keeps_to_its_bound_and_drops_what_was_not_used_for_longest(
    manager: AgentManager, oven: Oven
) -> None:
    for number in range(40):
        await result(manager, kind=f"{number}")
        await result(manager, kind="0")
    assert manager.cache.size <= 10_000
    runs = oven.runs
    await result(manager, kind="0")
    await result(manager, kind="39")
    assert oven.runs == runs
    await result(manager, kind="1")
    assert oven.runs == runs + 1


async def test_a_result_above_the_bound_is_given_and_not_kept(manager: AgentManager, oven: Oven) -> None:
    await result(manager, kind="x" * 100, size=200)

    assert (len(manager.cache), manager.cache.size) == (0, 0)


async def test_without_a_bound_nothing_is_kept() -> None:
    async with AgentManager(cache_bytes=0) as manager:
        oven = Oven()
        manager.register_tool("bake", oven.bake, cacheable=True)
        for _ in range(2):
            await result(manager)

    assert oven.runs == 2


async def test_what_streams_cannot_be_cached(manager: AgentManager) -> None:
    async def count() -> AsyncIterator[int]:
        yield 1

    with pytest.raises(InvalidTool):
        manager.register_tool("count", count, cacheable=True)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": b"x"}, {"a": "x"}),
        ({"a": {"b": "x"}}, {"a": b"x"}),
        ({"a": [1, [2]]}, {"a": [[1], 2]}),
        ({"a": {"o": {}}}, {"a": {}}),
        ({"a": 1}, {"a": True}),
        ({"a": Content(b"x", "image/png")}, {"a": b"x"}),
        ({"a": Content(b"x", filename="a.txt")}, {"a": Content(b"x", filename="b.txt")}),
        ({"a": None}, {}),
    ],
)
async def test_different_arguments_have_different_keys(
    manager: AgentManager, oven: Oven, one: dict[str, Any], other: dict[str, Any]
) -> None:
    registration: Registration = manager.registry.find("bake", caller=Caller())

    assert await key_of(registration, tenant="a", arguments=one) != await key_of(
        registration, tenant="a", arguments=other
    )


async def test_the_order_of_arguments_does_not_matter(manager: AgentManager, oven: Oven) -> None:
    await result(manager, kind="cake", size=2)

    assert (await result(manager, size=2, kind="cake")).cached


async def test_what_is_no_json_is_not_cached(manager: AgentManager, oven: Oven) -> None:
    registration = manager.registry.find("bake", caller=Caller())

    assert await key_of(registration, tenant="a", arguments={"a": float("nan")}) is None


def test_sizes_grow_with_the_value_and_copies_are_equal_and_apart() -> None:
    value: dict[str, Any] = {"a": ["x" * 100, b"y" * 50, 1, None, {"b": []}]}
    copied = copy_of(value)

    assert size_of(value) > 150
    assert copied == value
    assert copied["a"][4]["b"] is not value["a"][4]["b"]


async def test_whoever_made_a_result_may_change_it_before_those_who_waited_have_theirs(
    manager: AgentManager, oven: Oven
) -> None:
    oven.open.clear()

    async def first() -> None:
        (await result(manager)).value.append("mould")

    making = asyncio.create_task(first())
    await asyncio.sleep(0)
    waiting = asyncio.create_task(result(manager))
    await asyncio.sleep(0)
    oven.open.set()
    await making

    assert (await waiting).value == ["bread"]
    assert oven.runs == 1


async def test_a_tool_whose_result_is_an_artifact_cannot_be_cached(manager: AgentManager) -> None:
    async def keeps() -> list[Artifact]:
        return []

    with pytest.raises(InvalidTool, match="would outlive what it names"):
        manager.register_tool("keeps", keeps, cacheable=True)
