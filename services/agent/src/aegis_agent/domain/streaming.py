"""A call as a stream of what it tells, for whoever reads it one event after the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Self

from aegis_agent.domain.call import Caller, Event
from aegis_agent.domain.dispatch import Action, Dispatcher
from aegis_agent.domain.execution import Begun
from aegis_agent.domain.result import Result

Told = Event | Begun | Result
"""What a stream gives: a `Begun`, events of the work, and a `Result` in the end."""


class CallStream:
    """Runs one call; iterate over it inside an `async with` block, whose end stops the work.

    The iteration ends after the `Result`, or raises what `Dispatcher.dispatch` raises. One event waits while
    the reader is busy with another; then the tool waits.

    Args:
        dispatcher: What runs the call.
        action: The call.
        caller: For whom.
        time_left: Time until the caller's own deadline.
    """

    def __init__(
        self, dispatcher: Dispatcher, action: Action, *, caller: Caller, time_left: timedelta | None = None
    ) -> None:
        self._dispatcher = dispatcher
        self._action = action
        self._caller = caller
        self._time_left = time_left
        self._waiting: asyncio.Queue[Told | None] = asyncio.Queue(1)
        self._work: asyncio.Task[Result] | None = None

    async def __aenter__(self) -> Self:
        self._work = asyncio.get_running_loop().create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._work is not None:
            self._work.cancel()
            await asyncio.gather(self._work, return_exceptions=True)

    async def __aiter__(self) -> AsyncIterator[Told]:
        if self._work is None:
            raise RuntimeError("a CallStream is read inside its `async with` block")
        while (event := await self._waiting.get()) is not None:
            yield event
        yield await self._work

    async def _run(self) -> Result:
        try:
            result = await self._dispatcher.dispatch(
                self._action,
                caller=self._caller,
                time_left=self._time_left,
                sink=self._waiting.put,
                collect=False,
                on_begin=self._waiting.put,
            )
        except asyncio.CancelledError:
            raise  # nobody reads any more
        except BaseException:
            await self._waiting.put(None)
            raise
        await self._waiting.put(None)
        return result
