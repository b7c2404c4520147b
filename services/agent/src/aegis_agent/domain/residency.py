"""Residency: which models are in memory, within a bound; the least recently used ones make room."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Final

from aegis_agent.domain.inference import LoadedModel
from aegis_agent.domain.model_errors import ModelMemoryExhausted

_log: Final = logging.getLogger(__name__)


class Slot:
    """The place of one model version: empty, being filled, or filled.

    Args:
        name: For the log.
        size: What the model will hold, in bytes, as far as that is known before it is loaded.
        load: Brings it into memory.
    """

    def __init__(self, name: str, size: int, load: Callable[[], Awaitable[LoadedModel]]) -> None:
        self.name: Final = name
        self.size = size
        self.load: Final = load
        self.loaded: LoadedModel | None = None
        self.loading: asyncio.Task[LoadedModel] | None = None
        self.users = 0
        self.doomed = False


class Residency:
    """The models in memory.

    Args:
        limit_bytes: Most that all of them hold together.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._slots: dict[Slot, None] = {}  # in the order of their last use
        self._closing: set[asyncio.Task[None]] = set()
        self._room = asyncio.Lock()

    @property
    def held_bytes(self) -> int:
        """What is in memory, or on its way there."""
        return sum(slot.size for slot in self._slots)

    def use(self, slot: Slot) -> AbstractAsyncContextManager[LoadedModel]:
        """Hold a model in memory; load it where it is not. Callers that wait share one load.

        Raises:
            ModelMemoryExhausted: The models in use leave no room for it.
            AegisError: As the load says.
        """
        return _Use(self, slot)

    async def enter(self, slot: Slot) -> LoadedModel:
        """Begin to use a model; see `use`. Whoever has entered leaves."""
        slot.users += 1
        model = self.touch(slot)
        if model is not None:
            return model
        try:
            return await self._fill(slot)
        except BaseException:
            self.leave(slot)
            raise

    def touch(self, slot: Slot) -> LoadedModel | None:
        """Return a model that is in memory, as the one that was used last; None where it is not."""
        if slot.loaded is not None:
            self._slots[slot] = self._slots.pop(slot)
        return slot.loaded

    def leave(self, slot: Slot) -> None:
        """Use a model no longer."""
        slot.users -= 1
        if slot.doomed and not slot.users:
            self._empty(slot)

    def drop(self, slot: Slot) -> None:
        """Free a model's memory as soon as nobody uses it; the next use loads it again."""
        if slot.users:
            slot.doomed = True
        elif slot.loaded is not None:
            self._empty(slot)

    async def settled(self) -> None:
        """Wait until what has been dropped is gone."""
        await asyncio.gather(*self._closing, return_exceptions=True)

    async def close(self) -> None:
        """Free everything."""
        for slot in list(self._slots):
            if slot.loading is not None:
                slot.loading.cancel()
                await asyncio.gather(slot.loading, return_exceptions=True)
            self._empty(slot)
        await self.settled()

    async def _fill(self, slot: Slot) -> LoadedModel:
        if slot.loading is None:
            slot.loading = asyncio.get_running_loop().create_task(self._load(slot))
            slot.loading.add_done_callback(lambda task: _loaded(slot, task))
        return await asyncio.shield(slot.loading)

    async def _load(self, slot: Slot) -> LoadedModel:
        await self._make_room(slot)
        self._slots[slot] = None
        try:
            model = await slot.load()
        except BaseException:
            del self._slots[slot]
            raise
        slot.loaded = model
        slot.size = model.memory_bytes
        try:
            await self._make_room(slot)  # it may hold more than was known before
        except ModelMemoryExhausted:
            self._empty(slot)
            raise
        _log.info("model loaded", extra={"model": slot.name, "memory_bytes": slot.size})
        return model

    async def _make_room(self, wanted: Slot) -> None:
        """Empty idle slots, least recently used first, until *wanted* fits beside the others."""
        async with self._room:
            for slot in list(self._slots):
                if self._others(wanted) + wanted.size <= self._limit:
                    break
                if slot is not wanted and not slot.users and slot.loaded is not None:
                    _log.info("model makes room", extra={"model": slot.name, "memory_bytes": slot.size})
                    self._empty(slot)
            await self.settled()
            others = self._others(wanted)
            if others + wanted.size > self._limit:
                raise ModelMemoryExhausted.of(needed=wanted.size, limit=self._limit, in_use=others)

    def _others(self, wanted: Slot) -> int:
        return sum(slot.size for slot in self._slots if slot is not wanted)

    def _empty(self, slot: Slot) -> None:
        self._slots.pop(slot, None)
        slot.doomed = False
        model, slot.loaded = slot.loaded, None
        if model is not None:
            task = asyncio.get_running_loop().create_task(model.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


class _Use:
    """A model in use; a class, for a generator would cost each call several times as much."""

    __slots__ = ("_residency", "_slot")

    def __init__(self, residency: Residency, slot: Slot) -> None:
        self._residency, self._slot = residency, slot

    async def __aenter__(self) -> LoadedModel:
        return await self._residency.enter(self._slot)

    async def __aexit__(self, *exception: object) -> None:
        self._residency.leave(self._slot)


def _loaded(slot: Slot, task: asyncio.Task[LoadedModel]) -> None:
    slot.loading = None
    if not task.cancelled():
        task.exception()  # every caller may have gone away; the next one tries again
