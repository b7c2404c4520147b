"""Tools for LLM applications: as Python functions, and as definitions for the usual APIs."""

from __future__ import annotations

import inspect
import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

import pytest

from aegis_client import AsyncClient, Tool, ToolResult, UsageError
from aegis_client.cli.app import run
from aegis_client.parts import Part
from aegis_client.tool_exports import export
from aegis_client.tool_functions import make_function

if TYPE_CHECKING:
    from pathlib import Path

    from libs.aegis_client.tests.conftest import Deployment

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "limit": {"type": "integer", "default": 3, "description": "Most lines."},
        "text": {"type": "string", "description": "Any text."},
        "image": {"type": "string", "contentEncoding": "base64"},
        "kind": {"enum": ["a", "b"]},
        "note": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
        "points": {"type": "array", "items": {"$ref": "#/$defs/Point"}},
        "share": {"type": ["number", "null"]},
        "anything": {},
    },
    "required": ["text", "image"],
    "$defs": {"Point": {"type": "object"}},
}


def make(name: str = "read.text", **changes: Any) -> Tool:
    fields: dict[str, Any] = {
        "name": f"tools/{name}",
        "description": "Reads.",
        "version": "1",
        "input_schema": SCHEMA,
        "output_schema": {"type": "integer"},
        "default_timeout": None,
        "max_timeout": None,
        "concurrency": 1,
        "queue_size": 1,
        "idempotent": True,
        "model": "",
    }
    return Tool(**(fields | changes))


def answer(**content: Any) -> ToolResult:
    return ToolResult(
        parts=(Part(**content),),
        tool="tools/x",
        tool_version="1",
        execution_time=timedelta(0),
        queue_time=timedelta(0),
        warnings=(),
        model_version="",
    )


def test_a_function_looks_like_the_tool() -> None:
    function = make_function("read_text", make(), lambda *_: answer(json={"result": 3}), waits=False)
    parameters = inspect.signature(function).parameters

    assert (function.__name__, list(parameters)[:2]) == ("read_text", ["text", "image"])
    assert function.__doc__ == "Reads.\n\nArgs:\n    limit: Most lines.\n    text: Any text.\n"
    assert get_type_hints(function) == {
        "text": str,
        "image": bytes,
        "limit": int,
        "kind": Literal["a", "b"] | None,
        "note": str | None,
        "points": list[dict[str, Any]] | None,
        "share": float | None,
        "anything": Any,
        "return": int,
    }
    assert parameters["limit"].default == 3


def test_only_the_arguments_that_are_given_are_sent() -> None:
    sent: list[tuple[str, dict[str, Any]]] = []

    def call(name: str, arguments: dict[str, Any]) -> ToolResult:
        sent.append((name, arguments))
        return answer(json={"result": 3})

    function = make_function("read_text", make(), call, waits=False)

    assert function(text="x", image=b"y") == 3
    assert sent == [("tools/read.text", {"text": "x", "image": b"y"})]
    with pytest.raises(TypeError):
        function(text="x")
    with pytest.raises(TypeError):
        function(text="x", image=b"y", colour=1)


def test_an_object_that_the_tool_gives_is_left_as_it_is() -> None:
    tool = make(output_schema={"type": "object"})
    function = make_function("x", tool, lambda *_: answer(json={"result": 3}), waits=False)

    assert function(text="x", image=b"") == {"result": 3}


def test_functions_run_their_tools(deployment: Deployment) -> None:
    with deployment.client() as client:
        (echo,) = client.tools.as_functions("echo")
        everything = client.tools.as_functions()

        assert echo() == {}  # the echo of a payload without parts
    assert [function.__name__ for function in everything] == ["t0", "t1", "t2", "t3", "t4"]


async def test_functions_of_the_async_client_are_coroutine_functions(deployment: Deployment) -> None:
    async with AsyncClient(deployment.profile()) as client:
        (echo,) = await client.tools.as_functions("echo")

        assert inspect.iscoroutinefunction(echo)
        assert await echo() == {}


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        (
            "openai",
            {
                "type": "function",
                "function": {"name": "read_text", "description": "Reads.", "parameters": SCHEMA},
            },
        ),
        ("anthropic", {"name": "read_text", "description": "Reads.", "input_schema": SCHEMA}),
        (
            "json-schema",
            {"name": "read_text", "description": "Reads.", "input": SCHEMA, "output": {"type": "integer"}},
        ),
    ],
)
def test_definitions_have_the_form_that_the_api_takes(form: str, expected: dict[str, Any]) -> None:
    assert export([make()], form) == [expected]


def test_two_tools_of_one_flat_name_are_refused_by_name() -> None:
    with pytest.raises(UsageError, match=r"tools/a\.b and tools/a-b"):
        export([make("a.b"), make("a-b")], "openai")
    with pytest.raises(UsageError, match="yaml"):
        export([], "yaml")


def test_the_command_line_exports(profile_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["tools", "export", "echo", "--format", "anthropic"]
    code = run(["--profile-file", str(profile_file), *line])

    assert (code, json.loads(capsys.readouterr().out)) == (
        0,
        [{"name": "echo", "description": "", "input_schema": {"type": "object", "maxProperties": 3}}],
    )


def test_parameters_that_python_cannot_name_get_names_near_to_theirs() -> None:
    schema = {"properties": {"from": {}, "a-b": {}, "a_b": True, "1st": {"description": "One."}}}
    sent: list[dict[str, Any]] = []

    def call(_: str, arguments: dict[str, Any]) -> ToolResult:
        sent.append(arguments)
        return answer(text="done")

    function = make_function("x", make(input_schema=schema), call, waits=False)
    function(from_=1, a_b=2, a_b_=3, _1st=4)

    assert list(inspect.signature(function).parameters) == ["from_", "a_b", "a_b_", "_1st"]
    assert sent == [{"from": 1, "a-b": 2, "a_b": 3, "1st": 4}]
    assert "_1st: One." in (function.__doc__ or "")


def test_a_schema_that_refers_to_itself_has_a_type_nevertheless() -> None:
    tree = {"anyOf": [{"type": "integer"}, {"type": "array", "items": {"$ref": "#/$defs/Tree"}}]}
    schema = {"properties": {"x": {"$ref": "#/$defs/Tree"}}, "$defs": {"Tree": tree}, "required": ["x"]}

    function = make_function("x", make(input_schema=schema), lambda *_: answer(text=""), waits=False)

    assert str(inspect.signature(function).parameters["x"].annotation).startswith("int | list[int | list[")
