"""Options of a tool: a wrong name or value is an error that says what to write instead."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from aegis_agent import AgentManager, WorkerLimits, tool
from aegis_agent.adapters.functions import ToolOptions, is_marked
from aegis_agent.adapters.option_forms import check_names
from aegis_agent.domain.errors import InvalidTool
from aegis_agent.testing import tools

WRONG = [
    ({"concurency": 4}, "'concurency' is no option of a tool; near: concurrency"),
    ({"network": True}, r"one of the limits: limits=WorkerLimits\(network=...\)"),
    ({"zzz": 1}, "there are cacheable, concurrency, cpu_s, "),
    ({"concurrency": "4"}, "concurrency is '4' and no whole number"),
    ({"retries": True}, "retries is True and no whole number"),
    ({"tags": "ab"}, r"tags is 'ab' and no list of texts; write it as \[\"a\", \"b\"\]"),
    ({"memory_bytes": "1G"}, "memory_bytes is '1G' and no number of bytes above 0"),
    ({"cpu_s": -5}, "cpu_s is -5 and no number of seconds above 0"),
    ({"grace": 5}, r"grace is 5 and no time; write timedelta\(seconds=...\)"),
    ({"limits": {"network": True}}, "no WorkerLimits"),
]
WRONG_LIMITS: list[tuple[dict[str, Any], str]] = [
    ({"memory_bytes": 1000}, "memory_bytes is 1000; write a whole number from 1048576 up, or None"),
    ({"memory_bytes": "1G"}, "memory_bytes is '1G'; write a whole number"),
    ({"cpu_s": 0}, "cpu_s is 0; write a number from 0.001 up, or None"),
    ({"open_files": 5}, "open_files is 5; write a whole number from 16 up, or None"),
    ({"output_bytes": None}, "output_bytes is None; write a whole number from 1 up"),
    ({"recycle_calls": True}, "recycle_calls is True"),
    ({"may_fork": "no"}, "may_fork is 'no'; write True or False"),
]


@pytest.mark.parametrize(("options", "fault"), WRONG)
def test_a_decorator_with_a_wrong_option_says_how_to_mend_it(options: dict[str, Any], fault: str) -> None:
    with pytest.raises(InvalidTool, match=fault):
        tool(**options)


@pytest.mark.parametrize(("options", "fault"), WRONG[:4])
async def test_so_does_a_registration(options: dict[str, Any], fault: str) -> None:
    async with AgentManager() as manager:
        with pytest.raises(InvalidTool, match=fault):
            manager.register_tool("t", tools.add, **options)
        with pytest.raises(InvalidTool, match=fault):
            await manager.upgrade_tool("t", tools.add, **options)


@pytest.mark.parametrize(("limits", "fault"), WRONG_LIMITS)
def test_limits_that_no_child_could_live_with_are_refused(limits: dict[str, Any], fault: str) -> None:
    with pytest.raises(InvalidTool, match=fault):
        WorkerLimits(**limits)


async def test_a_parameter_says_what_it_takes() -> None:
    def shout(text: str, loud) -> str:  # type: ignore[no-untyped-def]  # that is what is refused
        return f"{text}{loud}"

    async with AgentManager() as manager:
        with pytest.raises(InvalidTool, match=r"shout: parameter 'loud' has no type hint; .*loud: Any"):
            manager.register_tool("shout", shout)


def test_a_decorator_needs_no_brackets() -> None:
    def plain(text: str) -> str:
        return text

    assert tool(plain) is plain
    assert is_marked(plain)
    with pytest.raises(InvalidTool, match="marks a function, not 'shout'"):
        tool("shout")  # type: ignore[call-overload]  # as people write it


def test_every_option_is_known_and_its_default_is_right() -> None:
    check_names(field.name for field in fields(ToolOptions))
    ToolOptions()
