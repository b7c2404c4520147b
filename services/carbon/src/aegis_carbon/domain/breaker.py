"""Leaves a provider alone that fails whatever it is asked."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from aegis_common.clock import Clock

BREAKER_OPEN: Final = "BREAKER_OPEN"
"""Fault of a question that was not put."""
FAILURES: Final = 5
"""So many in a row open the breaker."""
LONGEST_PAUSE: Final = timedelta(hours=1)
_TOO_MANY: Final = "HTTP_429"
_OF_THE_PROVIDER: Final = ("TIMEOUT", "UNREACHABLE", "HTTP_401", _TOO_MANY, "HTTP_5")
"""Beginnings of faults that say nothing of what was asked: the next question would fare no better."""


@dataclass(slots=True)
class _State:
    failures: int = 0
    until: datetime | None = None


class Breaker:
    """One for all questions of this process; what single questions may not ask again is shared by replicas.

    Args:
        pause: How long a provider is left alone; then one question tries it.
        clock: Present time.
    """

    def __init__(self, *, pause: timedelta, clock: Clock) -> None:
        self._pause = pause
        self._clock = clock
        self._states: dict[str, _State] = {}

    def closed_until(self, provider: str) -> datetime | None:
        """Return None if *provider* may be asked, else until when not.

        Of those who ask after a pause, the first is told None, and tries it for the others.
        """
        state = self._states.get(provider)
        if state is None or state.until is None:
            return None
        now = self._clock()
        if now < state.until:
            return state.until
        state.until = now + self._pause
        return None

    def is_open(self, provider: str) -> bool:
        """Return whether *provider* is left alone."""
        state = self._states.get(provider)
        return state is not None and state.until is not None

    def note(self, provider: str, fault: str, retry_after: timedelta | None = None) -> None:
        """Note what a question came to; *fault* is empty for an answer, with or without data."""
        state = self._states.setdefault(provider, _State())
        if not fault.startswith(_OF_THE_PROVIDER):
            state.failures, state.until = 0, None
            return
        state.failures += 1
        told = retry_after if fault == _TOO_MANY else None
        if told is not None or state.failures >= FAILURES:
            state.until = self._clock() + min(LONGEST_PAUSE, told or self._pause)
