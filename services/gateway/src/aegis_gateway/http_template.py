"""Paths of `google.api.http`, for example `/v1/{name=tools/*}:dispatch`, taken apart."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Final, NamedTuple

_VARIABLE: Final = re.compile(r"\{([^}=]+)(?:=([^}]+))?\}")


class Parameter(NamedTuple):
    """A wildcard of a template, for example `tool` of field `name` behind `tools/`."""

    name: str
    field: str
    prefix: str


@dataclass(frozen=True, slots=True)
class HttpTemplate:
    """One path template.

    Attributes:
        openapi: The path as OpenAPI writes it, `/v1/tools/{tool}:dispatch`.
        parameters: Its wildcards, in order.
        fields: Request fields that the path fills.
        regex: RE2 expression of the paths that match.
    """

    openapi: str
    parameters: tuple[Parameter, ...]
    fields: frozenset[str]
    regex: str


@cache
def parse(path: str) -> HttpTemplate:
    """Take *path* apart. A wildcard behind a collection is named after it: `tools/*` gives `{tool}`."""
    openapi, regex, position = "", "", 0
    parameters: list[Parameter] = []
    fields: set[str] = set()
    for variable in _VARIABLE.finditer(path):
        literal = path[position : variable.start()]
        fields.add(variable[1])
        shown, pattern = _segments(variable[2] or "*", variable[1], parameters)
        openapi += literal + shown
        regex += re.escape(literal) + pattern
        position = variable.end()
    rest = path[position:]
    return HttpTemplate(openapi + rest, tuple(parameters), frozenset(fields), regex + re.escape(rest))


def _segments(pattern: str, field: str, parameters: list[Parameter]) -> tuple[str, str]:
    shown: list[str] = []
    regexes: list[str] = []
    before = ""
    for segment in pattern.split("/"):
        if segment in ("*", "**"):
            name = _singular(before) if before else field.replace(".", "_")
            prefix = "".join(f"{part}/" for part in shown)
            parameters.append(Parameter(name, field, prefix))
            shown.append("{" + name + "}")
            regexes.append("[^/]+" if segment == "*" else ".+")
        else:
            shown.append(segment)
            regexes.append(re.escape(segment))
        before = segment
    return "/".join(shown), "/".join(regexes)


def _singular(collection: str) -> str:
    return collection[:-1] if collection.endswith("s") else collection
