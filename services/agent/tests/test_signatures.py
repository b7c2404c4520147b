"""What a function's signature says of it as a tool: its context, and whether it streams."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterable, Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from aegis_agent import AsyncContext, Context
from aegis_agent.adapters.schemas import BadOutput, FunctionSchema
from aegis_agent.domain.errors import InvalidTool

INTEGERS = {"type": "array", "items": {"type": "integer"}}


class Point(BaseModel):
    x: int


def with_context(text: str, context: Context, *, number: int = 1) -> int:
    return number


def may_do_without(told: Context | None = None) -> int:
    return 1


async def with_async_context(context: AsyncContext) -> int:
    return 1


def iterates() -> Iterator[int]:
    yield 1


def generates() -> Generator[int, None, None]:
    yield 1


def gives_an_iterator() -> Iterator[int]:
    return iter([1])


def yields_an_iterable() -> Iterable[int]:
    yield 1


async def iterates_later() -> AsyncIterator[int]:
    yield 1


async def generates_later() -> AsyncGenerator[int]:
    yield 1


def says_nothing():  # type: ignore[no-untyped-def]  # that is the test
    yield 1


def points() -> Iterator[Point]:
    yield Point(x=1)


def gives_a_list() -> Iterable[int]:
    return [1]


@pytest.mark.parametrize(
    ("function", "name"),
    [(with_context, "context"), (may_do_without, "told"), (with_async_context, "context")],
)
def test_the_context_is_no_parameter_of_the_tool(function: Callable[..., Any], name: str) -> None:
    schema = FunctionSchema.of(function)

    assert schema.context == name
    assert name not in schema.input["properties"]


def test_the_context_is_added_to_the_arguments() -> None:
    context = object()
    bound = FunctionSchema.of(with_context).bind({"text": "x"}, context)

    assert bound == {"text": "x", "number": 1, "context": context}


@pytest.mark.parametrize(
    "function",
    [
        iterates,
        generates,
        gives_an_iterator,
        yields_an_iterable,
        iterates_later,
        generates_later,
    ],
)
def test_what_gives_items_streams_and_its_schema_is_that_of_their_list(function: Callable[..., Any]) -> None:
    schema = FunctionSchema.of(function)

    assert (schema.streams, schema.output, schema.dump_item(3)) == (True, INTEGERS, 3)
    with pytest.raises(BadOutput):
        schema.dump_item("three")


def test_definitions_stand_at_the_top_of_the_schema() -> None:
    schema = FunctionSchema.of(points)

    assert schema.output["items"] == {"$ref": "#/$defs/Point"}
    assert "Point" in schema.output["$defs"]
    assert schema.dump_item(Point(x=2)) == {"x": 2}


def test_a_generator_without_hints_streams_anything() -> None:
    schema = FunctionSchema.of(says_nothing)

    assert (schema.streams, schema.output) == (True, {"type": "array", "items": {}})


def test_a_plain_result_does_not_stream() -> None:
    assert (FunctionSchema.of(gives_a_list).streams, FunctionSchema.of(with_context).streams) == (
        False,
        False,
    )


def two_contexts(one: Context, other: Context) -> int:
    return 1


def sync_with_async_context(context: AsyncContext) -> int:
    return 1


async def async_with_sync_context(context: Context) -> int:
    return 1


def gives_an_async_iterator() -> AsyncIterator[int]:
    return iterates_later()


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (two_contexts, "one and other both take the context"),
        (sync_with_async_context, "a sync tool takes Context"),
        (async_with_sync_context, "an async tool takes AsyncContext"),
        (gives_an_async_iterator, "write it as `async def`"),
    ],
)
def test_what_cannot_work_is_refused_with_advice(function: Callable[..., Any], told: str) -> None:
    with pytest.raises(InvalidTool) as caught:
        FunctionSchema.of(function)

    assert told in caught.value.message
