"""A coroutine that ends soon after it was cancelled, whether it wants to or not."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Generator
from typing import Any, TypeVar

T = TypeVar("T")


class Stoppable(Awaitable[T]):
    """Awaits *work*; once cancelled, it has *patience_s* to end by itself, and is then taken no further.

    A coroutine runs only as far as whoever awaits it lets it: one that catches its cancellation and goes on
    is closed where it waits then. Tasks and threads that it started are its own affair.

    Args:
        work: What to await.
        patience_s: Seconds from the cancellation.
        refused: Called when it had to be closed.
    """

    __slots__ = ("_fired", "_patience_s", "_refused", "_timer", "_work")

    def __init__(self, work: Awaitable[T], patience_s: float, refused: Callable[[], None]) -> None:
        self._work = work
        self._patience_s = patience_s
        self._refused = refused
        self._timer: asyncio.TimerHandle | None = None
        self._fired = False

    def __await__(self) -> Generator[Any, Any, T]:
        steps = self._work.__await__()
        value: Any = None
        error: BaseException | None = None
        try:
            while True:
                try:
                    waited_for = steps.send(value) if error is None else steps.throw(error)
                except StopIteration as done:
                    result: T = done.value
                    return result
                value, error = None, None
                try:
                    value = yield waited_for
                except GeneratorExit:
                    raise
                except asyncio.CancelledError as thrown:
                    if self._is_over():
                        self._refused()
                        raise
                    error = thrown
                except BaseException as thrown:  # it is the work's
                    error = thrown
        finally:
            if self._timer is not None:
                self._timer.cancel()
            with contextlib.suppress(RuntimeError):  # it catches even that it is closed
                steps.close()

    def _is_over(self) -> bool:
        """Take note of a cancellation; tell whether it is the one that ends all patience."""
        task = asyncio.current_task()
        if task is None or self._fired:
            if task is not None:
                task.uncancel()  # ours; those who cancelled it count theirs
            return self._fired
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._patience_s, self._fire, task)
        return False

    def _fire(self, task: asyncio.Task[Any]) -> None:
        self._fired = True
        task.cancel()
