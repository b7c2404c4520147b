"""When children may start: a few at once, and after failures only now and then."""

from __future__ import annotations

import asyncio
import copy
import os
from typing import Final

from aegis_common.errors import AegisError

AT_ONCE: Final = max(2, os.cpu_count() or 1)
"""Most children of one pool that start at once; each costs a processor for its set-up."""
_FIRST_DELAY_S: Final = 0.2
_MAX_DELAY_S: Final = 30.0


class Backoff:
    """Counts failed starts; after each the next one waits longer."""

    def __init__(self) -> None:
        self._failures = 0
        self._until = 0.0
        self._error: AegisError | None = None

    def failed(self, error: AegisError) -> None:
        delay = min(_FIRST_DELAY_S * 2 ** min(self._failures, 16), _MAX_DELAY_S)
        self._failures += 1
        self._until = asyncio.get_running_loop().time() + delay
        self._error = error

    def succeeded(self) -> None:
        self._failures = 0
        self._until = 0.0
        self._error = None

    @property
    def wait_s(self) -> float:
        """Seconds until the next start; 0 when one may start now."""
        return max(self._until - asyncio.get_running_loop().time(), 0.0)

    def error(self) -> AegisError | None:
        """Return the error for a call that finds no child while no start is allowed, or None."""
        if self._error is None or not self.wait_s:
            return None
        error = again(self._error)
        error.message += f"; it is tried again in {self.wait_s:.1f} s"
        error.metadata["next_try_s"] = f"{self.wait_s:.1f}"
        return error


def again(error: AegisError) -> AegisError:
    """Return *error* afresh, to be raised for another call."""
    fresh = copy.copy(error)
    fresh.__traceback__ = fresh.__cause__ = fresh.__context__ = None
    fresh.metadata = dict(error.metadata)
    return fresh
