"""Schemas from elsewhere: nothing is fetched for them, and neither they nor what they check take for ever."""

from __future__ import annotations

import http.server
import math
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict

from aegis_agent.adapters.answers import tool_message
from aegis_agent.adapters.foreign_schemas import MAX_DEPTH, MAX_NODES, check_foreign
from aegis_agent.adapters.schema_patterns import foreign_matcher
from aegis_agent.adapters.validation import SchemaChecks
from aegis_agent.domain.errors import InvalidTool, InvalidToolInput, InvalidToolOutput
from aegis_agent.domain.schema import holds_content
from aegis_agent.domain.tool import Tool, ToolSpec

ANY: dict[str, Any] = {}
EVIL = "(?:[a-z]{1,50}){1,50}x"  # 22 s for 1 MiB of text, in an engine that does not even backtrack


def spec(schema: dict[str, Any], output: dict[str, Any] = ANY) -> ToolSpec:
    return ToolSpec(name="t", description="", version="1", input_schema=schema, output_schema=output)


def checks(schema: dict[str, Any]) -> SchemaChecks:
    return SchemaChecks(spec(check_foreign(schema, tool="t", field="schema")), foreign=True)


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {"not": schema}
    return schema


@pytest.mark.parametrize(
    ("schema", "what"),
    [
        ([], "is no JSON object"),
        ({"type": "nothing"}, "is no JSON Schema"),
        ({"properties": {"a": {"$ref": "https://example.com/x"}}}, "refers to 'https"),
        ({"properties": {"a": {"$ref": "file:///etc/passwd"}}}, "refers to 'file"),
        ({"$dynamicRef": "#node"}, "refers to '#node'"),
        ({"properties": {"a": {"$ref": "#/$defs/missing"}}}, "refers to '#/\\$defs/missing'"),
        ({"$ref": "#"}, "itself without end"),
        ({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}, "itself without end"),
        ({"x": {"$id": "http://example.com/", "$ref": "#/y"}}, "has a part with \\$id"),
        ({"properties": {"a": {"$schema": "http://json-schema.org/draft-07/schema#"}}}, "a part with"),
        (nested(MAX_DEPTH), "nested too deep: at most 48"),
        (nested(40), "nested too deep to be told"),
        ({"maximum": 10**400}, "cannot be read"),
        ({"maximum": math.nan}, "cannot be read"),
        ({"properties": {f"p{i}": {} for i in range(MAX_NODES)}}, "too large: it has more than 5000 values"),
        ({"description": "x" * (1 << 20)}, "too large: it has more than 262144 bytes"),
        ({"properties": {"a": {"pattern": EVIL}}}, "cannot be matched in bounded time"),
        ({"patternProperties": {EVIL: {}}}, "cannot be matched in bounded time"),
        ({"pattern": "^(?=a)b"}, "cannot be matched in bounded time"),
        ({"pattern": "a" * 2000}, "longer than 1024 characters"),
        ({"unevaluatedProperties": False}, "unevaluatedProperties"),
    ],
)
def test_a_schema_that_could_do_harm_is_refused(schema: Any, what: str) -> None:
    with pytest.raises(InvalidTool, match=what):
        check_foreign(schema, tool="t", field="schema")


def test_what_ordinary_servers_say_is_taken() -> None:
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$id": "https://example.com/schemas/search",
        "type": "object",
        "properties": {
            "pattern": {"type": "string", "examples": [{"pattern": "foo("}]},
            "slug": {"type": "string", "pattern": r"^\w+(-\w+)*$"},
            "id": {"type": "string", "pattern": "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"},
            "tree": {"$ref": "#/$defs/Node"},
        },
        "required": ["pattern"],
        "additionalProperties": False,
        "$defs": {"Node": {"properties": {"left": {"$ref": "#/$defs/Node"}}, "required": ["name"]}},
    }
    made = checks(schema)

    made.input({"pattern": "(", "slug": "a-b", "tree": {"name": "x", "left": {"name": "y"}}})
    for wrong in (
        {"pattern": "x", "slug": "a b"},
        {"pattern": "x", "tree": {"name": "x", "left": {}}},
        {"pattern": "x", "more": 1},
        {},
    ):
        with pytest.raises(InvalidToolInput):
            made.input(wrong)


def test_a_bound_of_64_bits_is_told_about_and_checked_exactly() -> None:
    schema = check_foreign({"properties": {"a": {"maximum": 2**63 - 1}}}, tool="t", field="schema")
    told = tool_message(Tool(spec=spec(schema), runner=None, checks=None))  # type: ignore[arg-type]  # not asked

    assert {"a": {"maximum": 2.0**63}} == MessageToDict(told.input_schema)["properties"]
    made = SchemaChecks(spec(schema), foreign=True)
    made.input({"a": 2**63 - 1})
    with pytest.raises(InvalidToolInput):
        made.input({"a": 2**63})


class _Counting(http.server.BaseHTTPRequestHandler):
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(404)
        self.end_headers()

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def elsewhere() -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []
    handler = type("Counting", (_Counting,), {"asked": asked})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/schema", asked
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("foreign", [True, False])
def test_no_check_fetches_a_schema(elsewhere: tuple[str, list[str]], foreign: bool) -> None:
    """Whatever got past the first look: the checks themselves fetch nothing."""
    url, asked = elsewhere
    made = SchemaChecks(
        spec({"properties": {"a": {"$ref": url}}}, {"$id": url, "$ref": "more"}), foreign=foreign
    )

    with pytest.raises(InvalidToolInput, match="refers to what it does not have"):
        made.input({"a": 1})
    with pytest.raises(InvalidToolOutput, match="refers to what it does not have"):
        made.output(1)
    assert [] == asked


def bushy(links: int, levels: int) -> dict[str, Any]:
    """Return a small schema that applies itself links ** levels times to one value."""
    below = {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * links} for i in range(levels)}
    return {"properties": {"a": {"$ref": "#/$defs/d0"}}, "$defs": {**below, f"d{levels}": {}}}


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (bushy(2, 15), 1),
        ({"properties": {"a": {"$ref": "#/$defs/n"}}, "$defs": {"n": {"allOf": [{"$ref": "#/$defs/n"}]}}}, 1),
        ({"properties": {"a": {"items": {"pattern": "x$"}}}}, ["y" * (16 << 10)] * 100),
        ({"properties": {"a": {"pattern": "x$"}}}, "x" * (17 << 10)),
        ({"properties": {"default": {"unevaluatedProperties": {}}}, "$ref": "#/properties/default"}, {}),
    ],
)
def test_a_check_takes_bounded_work(schema: dict[str, Any], value: Any) -> None:
    with pytest.raises(InvalidToolInput):
        checks(schema).input({"a": value})


@pytest.mark.parametrize("depth", [5, 60])
def test_a_tree_of_variants_is_checked_within_bounds(depth: int) -> None:
    """Each level tries both variants of all levels below it: 2^60 ways to say that the innermost is wrong."""
    either = {"anyOf": [{"$ref": "#/$defs/add"}, {"$ref": "#/$defs/neg"}, {"type": "number"}]}
    kinds = {
        name: {"type": "object", "properties": {"of": either}, "required": ["of"]} for name in ("add", "neg")
    }
    made = SchemaChecks(spec({"properties": {"tree": either}, "$defs": kinds}))
    tree: Any = 1
    for _ in range(depth):
        tree = {"of": tree}
    made.input({"tree": tree})
    tree = "one"
    for _ in range(depth):
        tree = {"of": tree}

    with pytest.raises(InvalidToolInput):
        made.input({"tree": tree})


def test_a_large_value_may_take_more_work_than_a_small_one() -> None:
    schema = {"properties": {"a": {"items": {"$ref": "#/$defs/n"}}}, "$defs": {"n": {"type": "integer"}}}

    made = checks(schema).input({"a": list(range(30_000))})

    assert 30_000 == len(made["a"])


def test_a_schema_with_many_links_to_itself_is_looked_through_once() -> None:
    many = {"properties": {f"p{i}": {"$ref": "#/$defs/n"} for i in range(50)}}
    schema = check_foreign({"$defs": {"n": many}, "$ref": "#/$defs/n"}, tool="t", field="schema")

    assert not holds_content(schema, schema)


def test_a_pattern_of_our_own_does_not_backtrack() -> None:
    """With backtracking, this test does not end."""
    made = SchemaChecks(
        spec(
            {
                "properties": {"a": {"pattern": "^(a+)+$"}},
                "patternProperties": {"^(b+)+$": {"type": "string"}},
                "additionalProperties": False,
            }
        )
    )
    with pytest.raises(InvalidToolInput):
        made.input({"a": "a" * 200 + "!"})
    with pytest.raises(InvalidToolInput):
        made.input({"b" * 200 + "!": ""})
    made.input({"bb": "x"})


def test_a_pattern_of_our_own_may_look_around() -> None:
    made = SchemaChecks(spec({"properties": {"a": {"pattern": "^(?!x)"}}}))

    made.input({"a": "y"})
    with pytest.raises(InvalidToolInput):
        made.input({"a": "x"})


def test_unique_items_are_told_apart_without_comparing_each_with_each() -> None:
    """Each with each: hundreds of millions of comparisons."""
    made = SchemaChecks(spec({"properties": {"a": {"uniqueItems": True}}}))
    many = [{"n": i, "l": [i]} for i in range(30_000)]
    made.input({"a": many})
    made.input({"a": [1, True, "1", [1], {"1": 1}]})
    for twins in ([1, 1.0], [{"a": [1], "b": 2}, {"b": 2, "a": [1]}], ["x", "x"]):
        with pytest.raises(InvalidToolInput):
            made.input({"a": twins})


@pytest.mark.parametrize("text", ["a{99999999999}", "(" * 5000, "a?" * 100_000])
def test_a_text_that_is_no_usable_regular_expression_is_a_fault_of_the_input(text: str) -> None:
    made = SchemaChecks(spec({"properties": {"a": {"type": "string", "format": "regex"}}}))

    with pytest.raises(InvalidToolInput):
        made.input({"a": text})


def test_a_number_that_cannot_be_divided_is_a_fault_of_the_input() -> None:
    made = SchemaChecks(spec({"properties": {"a": {"multipleOf": 0.5}}}))

    with pytest.raises(InvalidToolInput):
        made.input({"a": 10**400})


def test_a_value_that_is_nested_too_deep_is_a_fault_of_the_input() -> None:
    value: Any = 1
    for _ in range(300):
        value = [value]
    made = SchemaChecks(
        spec({"properties": {"a": {"$ref": "#/$defs/n"}}, "$defs": {"n": {"items": {"$ref": "#/$defs/n"}}}})
    )

    with pytest.raises(InvalidToolInput, match="nested too deep"):
        made.input({"a": value})


def test_classes_mean_what_json_schema_says() -> None:
    matches = foreign_matcher(r"^[\w-]+\d$")

    assert matches("a-b_1")
    assert not matches("ä1")
    assert not matches("a1\n")


@pytest.mark.parametrize("foreign", [True, False])
@pytest.mark.parametrize("value", [math.nan, {"a": [math.inf]}, "\ud800", {"\udc00": 1}, object()])
def test_what_has_no_json_is_no_result(value: Any, foreign: bool) -> None:
    made = SchemaChecks(spec({}), foreign=foreign)

    made.output({"a": [1.5, "\U0001f600", b"\xff", None]})
    with pytest.raises(InvalidToolOutput):
        made.output(value)
