"""What each option of a tool takes; a wrong name or value is refused where it is written."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable
from dataclasses import fields
from datetime import timedelta
from typing import Any, Final, NamedTuple

from aegis_agent.adapters.children.setup import WorkerLimits
from aegis_agent.domain.call import Priority
from aegis_agent.domain.errors import InvalidTool


class _Form(NamedTuple):
    """What a value must be: a test of it, what it is called, and how to write one."""

    fits: Callable[[Any], bool]
    what: str
    write: str


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _above_0(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool) and value > 0)


def _words(value: Any) -> bool:
    # A text would be taken for its letters.
    return (
        isinstance(value, Collection)
        and not isinstance(value, str | bytes)
        and all(isinstance(item, str) for item in value)
    )


_TIME: Final = _Form(lambda value: isinstance(value, timedelta), "time", "timedelta(seconds=...)")
_TEXT: Final = _Form(lambda value: isinstance(value, str), "text", "it in quotes")
_WHOLE: Final = _Form(_whole, "whole number", "one such as 4")
_FLAG: Final = _Form(lambda value: isinstance(value, bool), "flag", "True or False")
_WORDS: Final = _Form(_words, "list of texts", 'it as ["a", "b"]')

_FORMS: Final = {
    "description": _TEXT,
    "version": _TEXT,
    "default_timeout": _TIME,
    "max_timeout": _TIME,
    "concurrency": _WHOLE,
    "queue_size": _WHOLE,
    "queue_timeout": _Form(
        lambda value: value is None or isinstance(value, timedelta), "time", "timedelta(seconds=...)"
    ),
    "priority": _Form(lambda value: isinstance(value, Priority), "priority", "Priority.HIGH, NORMAL or LOW"),
    "idempotent": _FLAG,
    "retries": _WHOLE,
    "cacheable": _FLAG,
    "roles": _WORDS,
    "tenants": _WORDS,
    "tags": _WORDS,
    "grace": _TIME,
    "memory_bytes": _Form(
        lambda value: _above_0(value) and not isinstance(value, float),
        "number of bytes above 0",
        "for example 1 << 30",
    ),
    "cpu_s": _Form(_above_0, "number of seconds above 0", "for example 5.0"),
    "limits": _Form(lambda value: isinstance(value, WorkerLimits), "WorkerLimits", "WorkerLimits(...)"),
    "warm_up": _Form(lambda value: value is None or callable(value), "function", "its name, without quotes"),
    "preload": _WORDS,
}


def check_names(names: Iterable[str]) -> None:
    """Refuse an option that there is not.

    Raises:
        InvalidTool: One of *names* is no option; those that come near are named.
    """
    for name in names:
        if name in _FORMS:
            continue
        if name in {field.name for field in fields(WorkerLimits)}:
            hint = f"it is one of the limits: limits=WorkerLimits({name}=...)"
        elif near := difflib.get_close_matches(name, _FORMS, n=3):
            hint = f"near: {', '.join(near)}"
        else:
            hint = f"there are {', '.join(sorted(_FORMS))}"
        raise InvalidTool(f"{name!r} is no option of a tool; {hint}", option=name)


def check_values(options: Any) -> None:
    """Refuse a value of another type than its option's, before something is reckoned with it.

    Raises:
        InvalidTool: One is; it says how to write it.
    """
    for option, form in _FORMS.items():
        value = getattr(options, option)
        if not form.fits(value):
            what = f"{option} is {value!r:.80} and no {form.what}; write {form.write}"
            raise InvalidTool(what, option=option, value=f"{value!r:.80}")
