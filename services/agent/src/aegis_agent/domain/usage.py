"""What calls use: CPU time and memory, measured where the work is done."""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Generator
from typing import Any, Final, NamedTuple, Protocol, TypeVar

T = TypeVar("T")


class Usage(NamedTuple):
    """What one call, or one attempt of a job, used.

    Attributes:
        cpu_s: CPU seconds of all attempts together; None where nothing measured them.
        peak_bytes: The most resident bytes of the process that worked for it alone; None where it had none.
    """

    cpu_s: float | None = None
    peak_bytes: int | None = None


UNMEASURED: Final = Usage()
_GIB_H: Final = (1 << 30) * 3600.0


def gib_hours(held_bytes: int, seconds: float) -> float:
    """Return what *held_bytes* are over so many seconds, in GiB-hours."""
    return held_bytes * seconds / _GIB_H


class Spent:
    """Adds up what the work of one call uses; whoever runs a part of it tells its share."""

    __slots__ = ("_cpu_s", "_peak_bytes")

    def __init__(self) -> None:
        self._cpu_s: float | None = None
        self._peak_bytes: int | None = None

    def add(self, cpu_s: float, *, peak_bytes: int = 0) -> None:
        """Count CPU seconds, and what was resident meanwhile; the largest counts."""
        self._cpu_s = cpu_s + (self._cpu_s or 0.0)
        if peak_bytes > (self._peak_bytes or 0):
            self._peak_bytes = peak_bytes

    def usage(self) -> Usage:
        """Return what was used so far."""
        return Usage(self._cpu_s, self._peak_bytes)


class UsedCall(NamedTuple):
    """A call that has ended, well or not.

    Attributes:
        tenant: Owner of the call.
        tool: Name of the tool or model.
        model: Name of the model that answered, or empty.
        seconds: From the start of the work to its end.
    """

    tenant: str
    tool: str
    model: str
    usage: Usage
    seconds: float


class Uses(Protocol):
    """Takes what calls used, at once and without fail. Jobs are accounted for with their records."""

    def used(self, call: UsedCall) -> None:
        """Count a call that has ended."""
        ...


class Unaccounted:
    """Keeps nothing."""

    def used(self, call: UsedCall) -> None: ...


class _Inner(threading.local):
    """CPU seconds of steps that were measured inside the step that is measured now."""

    cpu_s = 0.0


_inner: Final = _Inner()


class Stepped(Awaitable[T]):
    """Awaits *work* and counts the CPU time of its steps: from each time that it goes on to its next wait.

    Other tasks run between the steps, so only the steps are its own. What it starts in threads, processes or
    tasks of its own is not in the figure. Where the work of one call awaits that of another, each has its own
    steps alone.
    """

    __slots__ = ("_spent", "_work")

    def __init__(self, work: Awaitable[T], spent: Spent) -> None:
        self._work = work
        self._spent = spent

    def __await__(self) -> Generator[Any, Any, T]:
        steps, add, clock, inner = self._work.__await__(), self._spent.add, time.thread_time, _inner
        value: Any = None
        error: BaseException | None = None
        try:
            while True:
                outer, inner.cpu_s = inner.cpu_s, 0.0
                begun = clock()
                try:
                    waited_for = steps.send(value) if error is None else steps.throw(error)
                except StopIteration as done:
                    result: T = done.value
                    return result
                finally:
                    whole = clock() - begun
                    own = whole - inner.cpu_s
                    add(own if own > 0.0 else 0.0)
                    inner.cpu_s = outer + whole
                value, error = None, None
                try:
                    value = yield waited_for
                except GeneratorExit:
                    raise
                except BaseException as thrown:  # it is the work's: a cancellation, for example
                    error = thrown
        finally:
            steps.close()
