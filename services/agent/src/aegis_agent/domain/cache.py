"""Results of tools that always give the same for the same: kept, bounded, and made once for all who ask."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from aegis_agent.domain.call import Arguments
from aegis_agent.domain.errors import ToolOverloaded, ToolQueueFull, ToolQueueTimeout, ToolTimeout
from aegis_agent.domain.offload import offloaded
from aegis_agent.domain.registry import Change, Registration
from aegis_agent.domain.result import Result
from aegis_agent.domain.sizes import copy_of, size_of
from aegis_common.canonical import canonical_json
from aegis_common.errors import AegisError

_OVERHEAD: Final = 512
_OF_THE_CALLER: Final = (ToolTimeout, ToolQueueFull, ToolOverloaded, ToolQueueTimeout)
"""Errors that come of one caller's time and place in the queue: another caller may fare better."""


@dataclass(frozen=True, slots=True)
class CacheKey:
    """What makes two calls the same. A tool that was replaced, whatever its version says, is another."""

    registration: Registration
    tenant: str
    digest: bytes


@dataclass(slots=True)
class _Entry:
    result: Result
    size: int


class ResultCache:
    """Results by tenant, tool, version and input; the one that was not used for longest goes first.

    Errors are never kept. Callers that ask for what is being made wait for it. When the one that makes it is
    cancelled or runs out of time, another of them goes on.

    Args:
        max_bytes: Bound on all results together; 0 keeps nothing.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[CacheKey, _Entry] = OrderedDict()
        self._making: dict[CacheKey, asyncio.Future[Result | AegisError | None]] = {}
        self.size = 0
        self.hits = 0
        self.misses = 0

    @property
    def enabled(self) -> bool:
        return self._max_bytes > 0

    def __len__(self) -> int:
        return len(self._entries)

    async def get(self, key: CacheKey, make: Callable[[], Awaitable[Result]], *, until: float) -> Result:
        """Return the result of *key*, made by *make* unless it is there or being made.

        Raises:
            TimeoutError: It was still being made, for another caller, at *until* on the event loop's clock.
            AegisError: As *make*; also what another caller's *make* raised meanwhile for the same input.
        """
        while True:
            found = self._entries.get(key)
            if found is not None:
                self._entries.move_to_end(key)
                return await self._again(found.result)
            making = self._making.get(key)
            if making is None:
                self.misses += 1
                return await self._make(key, make)
            async with asyncio.timeout_at(until):
                outcome = await asyncio.shield(making)
            if isinstance(outcome, AegisError):
                raise outcome
            if outcome is not None:
                return await self._again(outcome)

    def forget(self, change: Change) -> None:
        """Drop the results of a tool that has gone or was replaced; a `Listener` of the registry."""
        if change.before is None:
            return
        for key in [key for key in self._entries if key.registration is change.before]:
            self._drop(key)

    async def _make(self, key: CacheKey, make: Callable[[], Awaitable[Result]]) -> Result:
        flight: asyncio.Future[Result | AegisError | None] = asyncio.get_running_loop().create_future()
        self._making[key] = flight
        outcome: Result | AegisError | None = None
        try:
            made = await make()
            copied = await offloaded(copy_of, made.value)  # whoever called may change its own at once
            outcome = replace(made, value=copied)
            await self._keep(key, outcome)
        except AegisError as error:
            outcome = None if isinstance(error, _OF_THE_CALLER) else error
            raise
        else:
            return made
        finally:
            del self._making[key]
            flight.set_result(outcome)  # None: whoever waits tries by itself

    async def _again(self, result: Result) -> Result:
        self.hits += 1
        return replace(result, value=await offloaded(copy_of, result.value)).from_cache()

    async def _keep(self, key: CacheKey, result: Result) -> None:
        size = await offloaded(size_of, result.value) + _OVERHEAD
        if size > self._max_bytes or not key.registration.live:
            return
        self._entries[key] = _Entry(result, size)
        self.size += size
        while self.size > self._max_bytes:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: CacheKey) -> None:
        self.size -= self._entries.pop(key).size


async def key_of(registration: Registration, *, tenant: str, arguments: Arguments) -> CacheKey | None:
    """Return the key of a call with these arguments; None when they have no canonical form."""
    try:
        return CacheKey(registration, tenant, await offloaded(_digest, arguments))
    except (TypeError, ValueError):
        return None


def _digest(arguments: Arguments) -> bytes:
    return hashlib.sha256(canonical_json(_tagged(arguments))).digest()


def _tagged(value: Any) -> Any:
    """Return *value* as JSON in which bytes, lists and objects cannot be taken for each other."""
    if isinstance(value, bytes):
        digest, about = hashlib.sha256(value).hexdigest(), ("media_type", "filename")
        return {"b": digest, "a": [getattr(value, name, "") for name in about]}
    if isinstance(value, dict):
        return {"o": {key: _tagged(item) for key, item in value.items()}}
    if isinstance(value, list | tuple):
        return [_tagged(item) for item in value]
    return value
