"""Schemas that somebody else has written: bounded before anything is done with them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

from aegis_agent.adapters.parts import schema_struct
from aegis_agent.adapters.schema_patterns import BadPattern, foreign_matcher
from aegis_agent.domain.errors import InvalidTool, InvalidToolOutput
from aegis_agent.domain.tool import JsonSchema

MAX_NODES: Final = 5000
"""Most objects, lists and values in a schema from elsewhere."""
MAX_DEPTH: Final = 48
"""Most objects and lists inside each other."""
MAX_BYTES: Final = 256 << 10
"""Largest schema as JSON."""

_HEADS: Final = frozenset({"$schema", "$id"})
_REFERENCES: Final = ("$ref", "$dynamicRef", "$recursiveRef")
_DATA: Final = frozenset({"const", "enum", "default", "examples"})
UNSUPPORTED: Final = ("unevaluatedProperties", "unevaluatedItems")
"""Keywords whose cost the library does not let us bound."""


def check_foreign(schema: Any, *, tool: str, field: str) -> dict[str, Any]:
    """Return *schema* as it is used: without `$schema` and `$id`.

    It may refer to its own parts only, so that nothing is ever fetched; its size, its depth and its patterns
    are bounded.

    Args:
        schema: What somebody says is a JSON Schema.
        tool: Name of the tool, for messages.
        field: Which of its schemas, for messages.

    Raises:
        InvalidTool: It is none, or not one that we use.
    """
    try:
        _check_size(schema)
        bare = {key: value for key, value in schema.items() if key not in _HEADS}
        Draft202012Validator.check_schema(bare)
        _Walk(bare).check()
        schema_struct(bare)  # or it would keep everybody from listing the tools
    except SchemaError as error:
        fault = f"is no JSON Schema: {error.message[:200]}"
    except (_Refused, BadPattern) as error:
        fault = str(error)
    except InvalidToolOutput:
        fault = "is nested too deep to be told"
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        fault = f"cannot be read: {str(error)[:200]}"
    else:
        return bare
    raise InvalidTool(f"tool {tool[:100]!r}: {field} {fault}", tool=tool[:100], field=field)


class _Refused(Exception):
    """Says what is wrong with a schema."""


def _check_size(schema: Any) -> None:
    if not isinstance(schema, dict):
        raise _Refused("is no JSON object")
    nodes, level = 0, [schema]
    for _ in range(MAX_DEPTH):
        nodes += len(level)
        if nodes > MAX_NODES:
            raise _Refused(f"is too large: it has more than {MAX_NODES} values")
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below.extend(item.values())
            elif isinstance(item, list):
                below.extend(item)
        if not below:
            break
        level = below
    else:
        raise _Refused(f"is nested too deep: at most {MAX_DEPTH} objects and lists inside each other")
    if len(json.dumps(schema, allow_nan=False)) > MAX_BYTES:
        raise _Refused(f"is too large: it has more than {MAX_BYTES} bytes")


class _Walk:
    """Looks at every object of a schema.

    A property that is named as a keyword looks like one here. What that lets through is refused when
    arguments are checked.
    """

    def __init__(self, root: JsonSchema) -> None:
        self._root = root

    def check(self) -> None:
        """Check the schema.

        Raises:
            _Refused, BadPattern: It is not one that we use.
        """
        pending: list[tuple[Any, bool]] = [(self._root, False)]
        while pending:
            node, data = pending.pop()
            if isinstance(node, list):
                pending += [(item, data) for item in node]
            elif isinstance(node, dict):
                self._check_links(node)
                if not data:
                    _check_keywords(node)
                pending += [(item, data or key in _DATA) for key, item in node.items()]

    def _check_links(self, node: Mapping[str, Any]) -> None:
        for key in _HEADS:
            if isinstance(node.get(key), str):
                raise _Refused(f"has a part with {key}: the whole schema has to be of one kind")
        for key in _REFERENCES:
            if isinstance(node.get(key), str):
                self._follow(node, key)

    def _follow(self, node: Any, key: str) -> None:
        met: set[int] = set()
        while isinstance(node, dict) and isinstance(target := node.get(key), str):
            met.add(id(node))
            node = self._target(target) if key == "$ref" else None
            if not isinstance(node, dict | bool):
                raise _Refused(
                    f"refers to {target[:80]!r}; it may refer to its own parts only, as '#/$defs/a'"
                )
            if id(node) in met:
                raise _Refused(f"refers to {target[:80]!r}, which refers to itself without end")

    def _target(self, target: str) -> Any:
        if target != "#" and not target.startswith("#/"):
            return None
        node: Any = self._root
        for step in target[2:].split("/") if len(target) > 1 else ():
            key = unquote(step).replace("~1", "/").replace("~0", "~")
            if isinstance(node, list) and key.isdecimal() and int(key) < len(node):
                node = node[int(key)]
            elif isinstance(node, dict) and key in node:
                node = node[key]
            else:
                return None
        return node


def _check_keywords(node: Mapping[str, Any]) -> None:
    pattern = node.get("pattern")
    if isinstance(pattern, str):
        foreign_matcher(pattern)
    patterns = node.get("patternProperties")
    for pattern in patterns if isinstance(patterns, dict) else ():
        foreign_matcher(pattern)
    for key in UNSUPPORTED:
        if isinstance(node.get(key), bool):
            raise _Refused(
                f"has {key}, which is not taken from elsewhere; additionalProperties and items are"
            )
