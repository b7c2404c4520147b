"""The filter of ListJobs: comparisons joined by AND, a part of the language of AIP-160."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Final, NoReturn

from aegis_agent.domain.call import Priority
from aegis_agent.domain.jobs.errors import InvalidFilter
from aegis_agent.domain.jobs.job import Job, Phase, State

_TOKEN: Final = re.compile(
    r"""\s*(?:(?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(?P<operator>!=|<=|>=|=|<|>|:)|"""
    r"""(?P<word>[^\s"'=!<>:()]+)|(?P<other>.))""",
    re.DOTALL,
)
_LABEL: Final = re.compile(r"[a-z][a-z0-9_.-]{0,62}")
_FIELDS: Final = ("state", "phase", "priority", "tool", "creator", "reason", "dead_letter", "create_time")
_HINT: Final = (
    'for example: state = FAILED AND tool = "tools/echo" AND labels.team = "red" '
    'AND create_time > "2026-01-31T00:00:00Z"'
)
_ORDERED: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "<": lambda left, right: left < right,
    "<=": lambda left, right: left <= right,
    ">": lambda left, right: left > right,
    ">=": lambda left, right: left >= right,
}


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    place: int


@dataclass(frozen=True, slots=True)
class Filter:
    """Which jobs to list.

    Attributes:
        tests: All of them hold for a job that is listed.
        state: The one state that a listed job has, or None when several may occur.
    """

    tests: Sequence[Callable[[Job], bool]] = ()
    state: State | None = None

    def admits(self, job: Job) -> bool:
        return all(test(job) for test in self.tests)


def parse(text: str) -> Filter:
    """Read a filter; an empty one admits every job.

    Raises:
        InvalidFilter: It cannot be read; the message says where and why.
    """
    tokens = _tokens(text)
    tests: list[Callable[[Job], bool]] = []
    state: State | None = None
    position = 0
    while position < len(tokens):
        if tests:
            joint = tokens[position]
            if joint.kind != "word" or joint.text != "AND":
                _fault(joint, "comparisons are joined by AND")
            position += 1
        if position + 3 > len(tokens):
            _fault(tokens[-1], "a comparison is FIELD OPERATOR VALUE")
        field, operator, value = tokens[position : position + 3]
        position += 3
        test = _comparison(field, operator, value)
        tests.append(test)
        if field.text == "state" and operator.text == "=":
            state = State[value.text]
    return Filter(tuple(tests), state)


def _tokens(text: str) -> list[_Token]:
    found = []
    for match in _TOKEN.finditer(text.rstrip()):
        kind = str(match.lastgroup)
        token = _Token(kind, match.group(kind), match.start(kind))
        if kind == "other":
            _fault(token, f"{token.text!r} has no meaning here")
        if kind == "text":
            token = _Token(kind, re.sub(r"\\(.)", r"\1", token.text[1:-1]), token.place)
        found.append(token)
    return found


def _comparison(field: _Token, operator: _Token, value: _Token) -> Callable[[Job], bool]:
    if field.kind != "word":
        _fault(field, "a comparison begins with a field")
    if operator.kind != "operator":
        _fault(operator, f"after {field.text!r} comes one of = != < <= > >= :")
    if value.kind == "operator":
        _fault(value, "a comparison ends with a value")
    if field.text.startswith("labels."):
        return _label(field, operator, value)
    if field.text == "create_time":
        return _created(operator, value)
    if field.text not in _FIELDS:
        hint = "; in a URL a space is %20, not +" if "+" in field.text else ""
        known = ", ".join(_FIELDS)
        _fault(field, f"there is no field {field.text!r}; there are {known} and labels.KEY{hint}")
    if operator.text not in ("=", "!="):
        _fault(operator, f"{field.text} is compared with = or !=")
    read, wanted = _reader(field.text, value)
    equal = operator.text == "="
    return lambda job: (read(job) == wanted) == equal


def _reader(field: str, value: _Token) -> tuple[Callable[[Job], object], object]:
    if field == "state":
        return (lambda job: job.state), _enum(State, value)
    if field == "phase":
        return (lambda job: job.phase), _enum(Phase, value)
    if field == "priority":
        return (lambda job: job.spec.priority), _enum(Priority, value)
    if field == "dead_letter":
        if value.text not in ("true", "false"):
            _fault(value, "dead_letter is true or false")
        return (lambda job: job.dead_letter), value.text == "true"
    if field == "tool":
        return (lambda job: job.spec.tool), value.text.removeprefix("tools/")
    if field == "creator":
        return (lambda job: job.creator), value.text
    return (lambda job: job.failure.reason if job.failure else ""), value.text


def _enum(kind: type[Enum], value: _Token) -> Enum:
    if value.text not in kind.__members__:
        hint = f"; phase = {value.text} is meant" if kind is State and value.text in Phase.__members__ else ""
        _fault(value, f"{value.text!r} is not one of {', '.join(kind.__members__)}{hint}")
    return kind[value.text]


def _label(field: _Token, operator: _Token, value: _Token) -> Callable[[Job], bool]:
    key = field.text.removeprefix("labels.")
    if not _LABEL.fullmatch(key):
        _fault(field, f"{key!r} is no key of a label; in a URL a space is %20, not +")
    if operator.text == ":":
        if value.text != "*":
            _fault(value, f"labels.{key}:* asks whether the label is there; compare its value with =")
        return lambda job: key in job.spec.labels
    if operator.text not in ("=", "!="):
        _fault(operator, "a label is compared with =, != or :*")
    equal = operator.text == "="
    return lambda job: (job.spec.labels.get(key) == value.text) == equal


def _created(operator: _Token, value: _Token) -> Callable[[Job], bool]:
    if operator.text not in _ORDERED:
        _fault(operator, "create_time is compared with <, <=, > or >=")
    try:
        moment = datetime.fromisoformat(value.text)
    except ValueError:
        _fault(value, f'{value.text!r} is no RFC 3339 time; put it in quotes: "2026-01-31T00:00:00Z"')
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    holds = _ORDERED[operator.text]
    return lambda job: holds(job.created, moment)


def _fault(token: _Token, why: str) -> NoReturn:
    raise InvalidFilter(
        f"filter, character {token.place + 1}: {why}; {_HINT}",
        violations={"filter": f"character {token.place + 1}: {why}"},
        position=str(token.place + 1),
    )
