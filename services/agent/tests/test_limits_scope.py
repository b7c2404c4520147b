"""Every limit of the agent says where it counts."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from datetime import timedelta

import aegis_agent
from aegis.agent.v1 import agent_service_pb2 as pb
from aegis_agent.adapters.answers import tool_message
from aegis_agent.domain.errors import QueueFacts, ToolQueueFull
from aegis_agent.domain.registry import EVERYONE
from aegis_agent.manager import AgentManager
from aegis_common.errors import RETRYABLE, AegisError, ErrorKind, Scope


def _errors(base: type[AegisError] = AegisError) -> Iterator[type[AegisError]]:
    for error in base.__subclasses__():
        yield error
        yield from _errors(error)


def test_every_error_that_tells_of_a_limit_has_a_scope() -> None:
    for module in pkgutil.walk_packages(aegis_agent.__path__, "aegis_agent."):
        importlib.import_module(module.name)

    limits = {
        error
        for error in _errors()
        if getattr(error, "kind", None) is ErrorKind.RESOURCE_EXHAUSTED
        and error.__module__.startswith("aegis_agent.")
    }
    assert len(limits) > 10
    assert set() == {error.__name__ for error in limits if error.scope is None}


def test_what_is_too_large_by_itself_asks_nobody_to_try_again() -> None:
    for module in pkgutil.walk_packages(aegis_agent.__path__, "aegis_agent."):
        importlib.import_module(module.name)

    large = {error for error in _errors() if error.__dict__.get("reason", "").endswith("_TOO_LARGE")}
    assert len(large) > 5
    assert set() == {error.__name__ for error in large if error.kind in RETRYABLE}


def test_a_full_queue_is_that_of_one_replica() -> None:
    facts = QueueFacts(
        running=1, waiting=0, concurrency=1, queue_size=0, wait_s=None, retry_after=timedelta(seconds=1)
    )

    assert Scope.REPLICA == ToolQueueFull.of("echo", facts).metadata["scope"]


async def test_a_tool_says_that_its_concurrency_is_that_of_each_replica() -> None:
    async def here() -> str:
        return "here"

    async with AgentManager() as manager:
        manager.register_tool("here", here)
        found = manager.registry.owned("here", owner=EVERYONE)

    assert found is not None
    assert pb.Tool.CONCURRENCY_SCOPE_REPLICA == tool_message(found.tool).concurrency_scope
