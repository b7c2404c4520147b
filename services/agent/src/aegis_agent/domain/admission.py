"""Admission: which calls of one tool run, which wait, and when a caller is sent away."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from types import MappingProxyType
from typing import Final

from aegis_agent.domain.durations import Durations
from aegis_agent.domain.errors import (
    QueueFacts,
    ToolOverloaded,
    ToolQueueFull,
    ToolQueueTimeout,
    ToolTimeout,
)
from aegis_agent.domain.fair_queue import Claim, Weights
from aegis_agent.domain.slots import Clock, Slots, loop_time
from aegis_agent.domain.tool import ToolSpec
from aegis_common.errors import AegisError

EQUAL: Final[Mapping[str, float]] = MappingProxyType({})
"""No tenant has more weight than another."""

_LIKELY: Final = 0.5
_AT_LEAST: Final = 0.1
_MIN_RETRY_S: Final = 0.1
_MAX_RETRY_S: Final = 60.0
_RETRY_UNKNOWN_S: Final = 1.0


class Admission:
    """The slots of one tool and its queue, in this agent process.

    Args:
        spec: The tool's limits.
        weights: Shares of tenants.
        clock: Seconds; the clock of the deadlines.
    """

    def __init__(self, spec: ToolSpec, *, weights: Weights = EQUAL, clock: Clock = loop_time) -> None:
        self._spec = spec
        self._clock = clock
        self._held = Durations()  # by any call, however it ended
        self._ran = Durations()  # by calls that gave a result
        self._slots = Slots(
            spec.concurrency, size=spec.queue_size, weights=weights, refusal=self._too_short, clock=clock
        )

    @property
    def running(self) -> int:
        """Calls that hold a slot."""
        return self._slots.running

    @property
    def waiting(self) -> int:
        """Calls that wait for one."""
        return len(self._slots.queue)

    @property
    def room(self) -> int:
        """How many more calls would get a slot at once."""
        return self._slots.room

    def slot(self, claim: Claim) -> AbstractAsyncContextManager[None]:
        """Hold a slot; wait for one where none is free.

        Raises:
            ToolTimeout: The call has too little time left to be started.
            ToolOverloaded: The wait is longer than the call has time.
            ToolQueueFull: As many calls as may wait do, or another one has taken this call's place.
            ToolQueueTimeout: The call has waited as long as calls of this tool may.
        """
        return _Held(self, claim)

    @property
    def free(self) -> bool:
        """Whether a call could start at once."""
        return self._slots.free

    async def begin(self, claim: Claim) -> float:
        """Take a slot, as `slot` does; return when it was taken, for `end`."""
        if self._slots.free:
            return self.begin_now(claim)
        await self._queue(claim)
        return self._clock()

    def begin_now(self, claim: Claim) -> float:
        """Take a slot while there is a free one; return when it was taken, for `end`.

        Raises:
            ToolTimeout: The call has too little time left to be started.
        """
        refusal = self._too_short(claim)
        if refusal is not None:
            raise refusal
        self._slots.take_free(claim)
        return self._clock()

    def end(self, claim: Claim, begun: float) -> None:
        """Give back a slot that was taken at *begun*."""
        now = self._clock()
        self._held.add(now - begun, now=now)
        self._slots.give_back(claim, now - begun)

    def check(self, claim: Claim) -> None:
        """Refuse a call that `slot` would refuse at once just now; else nothing changes.

        Raises:
            ToolTimeout, ToolOverloaded, ToolQueueFull: As of `slot`.
        """
        if self._slots.free:
            refusal = self._too_short(claim)
            if refusal is not None:
                raise refusal
            return
        self._refuse_hopeless(claim)
        if self._slots.queue.full() and self._slots.queue.victim(claim) is None:
            raise ToolQueueFull.of(self._spec.name, self.facts(claim))

    def resize(self, concurrency: int) -> None:
        """Change how many calls run at once: for a tool whose machines come and go; 1 and up."""
        self._slots.resize(concurrency)

    def finished(self, execution_s: float) -> None:
        """Count a call that gave a result; what it took is what the next ones are expected to take."""
        self._ran.add(execution_s, now=self._clock())

    def facts(self, claim: Claim) -> QueueFacts:
        """Return the state of the queue as the caller of *claim* sees it."""
        wait = self._wait_s(claim)
        retry = _RETRY_UNKNOWN_S if wait is None else min(max(wait, _MIN_RETRY_S), _MAX_RETRY_S)
        return QueueFacts(
            running=self.running,
            waiting=self.waiting,
            concurrency=self._slots.capacity,
            queue_size=self._spec.queue_size,
            wait_s=wait,
            retry_after=timedelta(seconds=retry),
        )

    async def _queue(self, claim: Claim) -> None:
        self._refuse_hopeless(claim)
        if self._slots.queue.full():
            self._make_room(claim)
        await self._wait(claim)

    async def _wait(self, claim: Claim) -> None:
        limit = self._spec.queue_timeout
        if limit is None:
            await self._slots.take(claim)
            return
        scope = asyncio.timeout(limit.total_seconds())
        try:
            async with scope:
                await self._slots.take(claim)
        except TimeoutError:
            if not scope.expired():
                raise
            raise ToolQueueTimeout.of(self._spec.name, self.facts(claim), limit=limit) from None

    def _make_room(self, claim: Claim) -> None:
        victim = self._slots.queue.victim(claim)
        if victim is None:
            raise ToolQueueFull.of(self._spec.name, self.facts(claim))
        error = ToolQueueFull.of(self._spec.name, self.facts(victim), pushed_out=True)
        self._slots.send_away(victim, error)

    def _refuse_hopeless(self, claim: Claim) -> None:
        now = self._clock()
        left = claim.deadline - now
        wait = self._wait_s(claim)
        if wait is None:
            return
        needed = wait + (self._ran.quantile(_LIKELY, now=now) or 0.0)
        if needed > left:
            raise ToolOverloaded.of(self._spec.name, self.facts(claim), left_s=left, needed_s=needed)

    def _too_short(self, claim: Claim) -> AegisError | None:
        """Return why a call is not started although there is a slot; None lets it start."""
        now = self._clock()
        left = claim.deadline - now
        needed = self._ran.quantile(_AT_LEAST, now=now) or 0.0
        if left <= 0:
            return ToolTimeout.of(self._spec.name, claim.limit, running=False)
        if left >= needed:
            return None
        return ToolTimeout.too_short(self._spec.name, left_s=left, needed_s=needed)

    def _wait_s(self, claim: Claim) -> float | None:
        """Return how long a further call waits, about; None while nothing is measured."""
        if self._slots.free:
            return 0.0
        held = self._held.mean(now=self._clock())
        if held is None:
            return None
        return (self._slots.queue.ahead(claim) + 1) * held / self._slots.capacity


class _Held:
    """A slot that is held; a class, for a generator would cost each call several times as much."""

    __slots__ = ("_admission", "_begun", "_claim")

    def __init__(self, admission: Admission, claim: Claim) -> None:
        self._admission, self._claim = admission, claim

    async def __aenter__(self) -> None:
        self._begun = await self._admission.begin(self._claim)

    async def __aexit__(self, *exception: object) -> None:
        self._admission.end(self._claim, self._begun)
