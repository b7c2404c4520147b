"""Slots: how many calls run at once, and whose turn it is when one ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Final

from aegis_agent.domain.fair_queue import Claim, FairQueue, Weights
from aegis_common.errors import AegisError

Clock = Callable[[], float]
_MIN_CHARGE_S: Final = 0.001


loop_time: Final[Clock] = time.monotonic
"""The time of asyncio's event loops, in seconds."""


def fits(_: Claim) -> AegisError | None:
    """Let every call start."""
    return None


class Slots:
    """A number of slots and the queue in front of them.

    Args:
        capacity: Most calls that hold a slot at once; 1 and up.
        size: Most calls that wait; None means any number.
        weights: Shares of tenants.
        refusal: Asked when a waiting call's turn has come; an error means that it is not started.
        clock: Seconds, always going forward.
    """

    def __init__(
        self,
        capacity: int,
        *,
        size: int | None,
        weights: Weights,
        refusal: Callable[[Claim], AegisError | None] = fits,
        clock: Clock = loop_time,
    ) -> None:
        self.queue: Final = FairQueue(size, weights)
        self.capacity = capacity
        self.running = 0
        self._refusal = refusal
        self._clock = clock
        self._charge_s = _MIN_CHARGE_S

    @property
    def free(self) -> bool:
        """Whether a call could start at once."""
        return self.running < self.capacity and not len(self.queue)

    @property
    def room(self) -> int:
        """How many more calls could start at once."""
        return max(0, self.capacity - self.running - len(self.queue))

    def held(self, claim: Claim) -> AbstractAsyncContextManager[None]:
        """Hold a slot; wait for one where none is free."""
        return _Held(self, claim, self._clock)

    def resize(self, capacity: int) -> None:
        """Change how many calls run at once; those that run go on."""
        self.capacity = capacity
        self._advance()

    def take_free(self, claim: Claim) -> bool:
        """Take a slot for *claim* if a call could start at once; return whether it did."""
        if not self.free:
            return False
        self._begin(claim)
        return True

    async def take(self, claim: Claim) -> None:
        """Return when *claim* has a slot; whoever is cancelled meanwhile has none and keeps none.

        Raises:
            AegisError: The call was sent away while it waited.
        """
        if self.take_free(claim):
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        claim.turn = turn
        self.queue.put(claim)
        try:
            await turn
        except asyncio.CancelledError:
            self.queue.remove(claim)
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.give_back(claim, 0.0)  # the slot was handed over in the same moment
            raise

    def give_back(self, claim: Claim, held_s: float) -> None:
        """Free a slot that was held for *held_s*; the next call starts."""
        self.running -= 1
        self._charge_s = max(held_s, _MIN_CHARGE_S)
        self.queue.settle(claim, self._charge_s)
        self._advance()

    def send_away(self, claim: Claim, error: AegisError) -> None:
        """End the wait of a call with *error*."""
        if self.queue.remove(claim) and not claim.turn.done():
            claim.turn.set_exception(error)

    def _advance(self) -> None:
        while self.running < self.capacity:
            claim = self.queue.pop()
            if claim is None:
                return
            if claim.turn.done():
                continue  # cancelled; its task has not run since
            error = self._refusal(claim)
            if error is not None:
                claim.turn.set_exception(error)
            else:
                self._begin(claim)
                claim.turn.set_result(None)

    def _begin(self, claim: Claim) -> None:
        self.running += 1
        self.queue.charge(claim, self._charge_s)


class _Held:
    """A slot that is held; a class, for a generator would cost each call several times as much."""

    __slots__ = ("_begin", "_claim", "_clock", "_slots")

    def __init__(self, slots: Slots, claim: Claim, clock: Clock) -> None:
        self._slots, self._claim, self._clock = slots, claim, clock

    async def __aenter__(self) -> None:
        await self._slots.take(self._claim)
        self._begin = self._clock()

    async def __aexit__(self, *exception: object) -> None:
        self._slots.give_back(self._claim, self._clock() - self._begin)
