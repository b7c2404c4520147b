"""Reads YAML that others wrote: bounded, without aliases, and without the surprises of YAML 1.1."""

from __future__ import annotations

import math
import re
from collections.abc import Hashable
from typing import Any, Final

import yaml

MAX_DEPTH: Final = 16


class YamlFault(ValueError):
    """The text is no YAML that is read here; the message names line and column where there is one."""


class _Loader(yaml.SafeLoader):
    """Refuses aliases, double keys and deep nesting; only `true` and `false` are booleans."""

    # `no`, `on` and dates stay texts: they are labels more often than anything else
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  # PyYAML's own form
    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise _fault(self._mark(), "aliases (*name) are not read; write the value itself")
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _fault(self._mark(), f"it is nested deeper than {MAX_DEPTH} levels")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def _mark(self) -> yaml.Mark:
        mark: yaml.Mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        return mark

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        result: dict[Hashable, Any] = {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise _fault(key_node.start_mark, f"the key {key!r} is no text; write it in quotes")
            if key in result:
                raise _fault(key_node.start_mark, f"the key {key!r} stands there twice")
            result[key] = self.construct_object(value_node, deep=deep)
        return result


_TAG: Final = "tag:yaml.org,2002:"
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]{1,18}", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
):
    _Loader.add_implicit_resolver(_TAG + _tag, re.compile(rf"(?:{_pattern})\Z"), list(_first))


def _whole(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    return int(str(loader.construct_scalar(node)))


def _real(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    value = float(str(loader.construct_scalar(node)))
    if not math.isfinite(value):
        raise _fault(node.start_mark, f"{node.value} is too large a number")
    return value


_Loader.add_constructor(_TAG + "int", _whole)
_Loader.add_constructor(_TAG + "float", _real)


def read_yaml(data: bytes, *, max_bytes: int) -> Any:
    """Return the value that *data* holds: mappings with text keys, lists, texts, numbers, booleans, null.

    Args:
        data: UTF-8 text of one YAML document.
        max_bytes: Most bytes that are read.

    Raises:
        YamlFault: It is longer, no UTF-8, no YAML, has aliases, double keys, tags or deep nesting.
    """
    if len(data) > max_bytes:
        raise YamlFault(f"it has {len(data)} bytes; at most {max_bytes} are read")
    try:
        return yaml.load(data.decode(), Loader=_Loader)  # noqa: S506  # a safe loader
    except UnicodeDecodeError as error:
        raise YamlFault(f"it is no UTF-8 text: byte {error.start} is wrong") from error
    except yaml.MarkedYAMLError as error:
        problem = error.problem or error.context or "it is no YAML"
        raise _fault(error.problem_mark or error.context_mark, problem) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise YamlFault(str(error).splitlines()[0][:200] if str(error) else "it is no YAML") from error


def _fault(mark: Any, problem: str) -> YamlFault:
    place = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
    return YamlFault(place + problem)
