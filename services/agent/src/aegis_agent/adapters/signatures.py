"""What a function's signature says of it as a tool: its parameters, its context, whether it streams."""

from __future__ import annotations

import collections.abc
import functools
import inspect
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Union, get_args, get_origin, get_type_hints

from aegis_agent.context import AsyncContext, Context
from aegis_agent.domain.errors import InvalidTool

_KINDS: Final = frozenset({inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY})
_STREAMS: Final = frozenset(
    {
        collections.abc.Iterator,
        collections.abc.Generator,
        collections.abc.AsyncIterator,
        collections.abc.AsyncGenerator,
    }
)
_ASYNC_STREAMS: Final = frozenset({collections.abc.AsyncIterator, collections.abc.AsyncGenerator})
_ITERABLES: Final = frozenset({collections.abc.Iterable, collections.abc.AsyncIterable})
_CONTEXTS: Final = (Context, AsyncContext)


@dataclass(frozen=True, slots=True)
class Signature:
    """A function as a tool sees it.

    Attributes:
        context: Name of the parameter that takes the call's context, or empty.
        streams: Whether it gives its result item by item.
        result: Type of the result; of one item when it streams.
        collector: A function of the same signature, without the context, that returns the arguments it is
            called with.
    """

    context: str
    streams: bool
    result: Any
    collector: Callable[..., dict[str, Any]]

    @classmethod
    def of(cls, function: Callable[..., Any]) -> Signature:
        """Read the type hints of *function*.

        Raises:
            InvalidTool: A parameter cannot be passed by name or has no type hint, or the context is of the
                wrong kind.
        """
        name = getattr(function, "__qualname__", repr(function))
        signature = inspect.signature(function)
        for parameter in signature.parameters.values():
            if parameter.kind not in _KINDS:
                raise InvalidTool(
                    f"function {name}: parameter {parameter.name!r} cannot be passed by name", function=name
                )
        hints = get_type_hints(function, include_extras=True)
        if bare := [parameter for parameter in signature.parameters if parameter not in hints]:
            raise InvalidTool(
                f"function {name}: parameter {bare[0]!r} has no type hint; write what it takes, "
                f"{bare[0]}: str for example, or {bare[0]}: Any for anything",
                function=name,
                parameter=bare[0],
            )
        result = hints.pop("return", Any)
        context = _context(name, hints, waits=is_async(function))
        streams, result = _result(function, result)
        return cls(context, streams, result, _collector(function, signature, context))


def is_async(function: Callable[..., Any]) -> bool:
    """Tell whether *function* is `async def`, a generator or not: such tools run in the event loop."""
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


def _context(name: str, hints: dict[str, Any], *, waits: bool) -> str:
    """Return the name of the parameter annotated `Context`, or `Context | None`."""
    found = {parameter: kind for parameter, hint in hints.items() if (kind := _context_kind(hint))}
    if len(found) > 1:
        raise InvalidTool(f"function {name}: {' and '.join(found)} both take the context", function=name)
    wanted = AsyncContext if waits else Context
    for parameter, kind in found.items():
        if kind is not wanted:
            raise InvalidTool(
                f"function {name}: parameter {parameter!r} is a {kind.__name__}; "
                f"{'an async' if waits else 'a sync'} tool takes {wanted.__name__}",
                function=name,
            )
        return parameter
    return ""


def _context_kind(hint: Any) -> type | None:
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return next((kind for kind in _CONTEXTS if any(option is kind for option in options)), None)


def _result(function: Callable[..., Any], result: Any) -> tuple[bool, Any]:
    generates = inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)
    origin = get_origin(result) or result
    if origin in _ASYNC_STREAMS and not is_async(function):
        raise InvalidTool(
            f"function {function.__qualname__}: it returns an async iterator; write it as `async def`",
            function=function.__qualname__,
        )
    if origin in _STREAMS or (generates and origin in _ITERABLES):
        return True, (get_args(result) or (Any,))[0]
    return generates, result


def _collector(
    function: Callable[..., Any], signature: inspect.Signature, context: str
) -> Callable[..., dict[str, Any]]:
    kept = signature.replace(
        parameters=[item for name, item in signature.parameters.items() if name != context]
    )

    def collect(*args: Any, **kwargs: Any) -> dict[str, Any]:
        return kept.bind(*args, **kwargs).arguments if args else kwargs

    functools.update_wrapper(collect, function)
    collect.__annotations__ = {
        name: hint for name, hint in function.__annotations__.items() if name != context
    }
    collect.__signature__ = kept  # type: ignore[attr-defined]  # what inspect and pydantic read first
    return collect
