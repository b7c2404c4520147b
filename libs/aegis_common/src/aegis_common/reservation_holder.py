"""What the holder of a carbon reservation does now: it follows the signals, starts once, and is never late.

Pure: it sends nothing and reads no clock. SDK, command line, agent and coordinator carry out what it says.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

LONGEST_MARGIN: Final = timedelta(seconds=30)
MARGIN_SHARE: Final = 0.02
"""Share of the work that is left, by which it starts earlier than it has to, at most `LONGEST_MARGIN`, unless
the service said when."""


class Signal(StrEnum):
    """Kinds of a signal, as `ReservationSignal.Kind` names them."""

    START = "START"
    SUSPEND = "SUSPEND"
    RESUME = "RESUME"
    DEADLINE = "DEADLINE"


class Effect(StrEnum):
    """What is done to the work."""

    START = "START"
    SUSPEND = "SUSPEND"
    RESUME = "RESUME"


@dataclass(frozen=True, slots=True)
class Order:
    """What to do now.

    Attributes:
        effect: To be carried out once; None: nothing.
        token: Fencing token that the report of the effect carries.
        by_itself: Whether the holder decided so, without a signal.
        until: When to ask again, if no signal comes before; None: not again.
    """

    effect: Effect | None
    token: int
    by_itself: bool = False
    until: datetime | None = None


class ReservationHolder:
    """Holds one reservation.

    Args:
        deadline: Moment by which the work has ended, with a time zone.
        work: Time that it runs in all.
        start_token: The reservation's token of the first start.
        interruptible: Whether it is suspended at all.
        started: Whether an earlier holder of the same record has started it.
        running: Whether it runs; goes with `started`.
        token: Token of the last signal that was acted on.
    """

    def __init__(
        self,
        deadline: datetime,
        work: timedelta,
        *,
        start_token: int = 1,
        interruptible: bool = False,
        started: bool = False,
        running: bool = False,
        token: int = 0,
    ) -> None:
        if deadline.tzinfo is None:
            raise ValueError(f"deadline {deadline.isoformat()} has no time zone")
        self._deadline, self._work = deadline, work
        self._start_token = start_token
        self._interruptible = interruptible
        self.started, self.running = started, running
        self.token = token
        self._wanted = running
        self._latest: datetime | None = None
        self._final = False
        self._by_elapsed_s: tuple[datetime, float] | None = None

    def latest_start(self, worked: timedelta = timedelta(0)) -> datetime:
        """Return the last moment to start or resume after so much work, by whoever says the earlier one."""
        left = max(self._work - worked, timedelta(0))
        own = self._deadline - left
        if self._latest is None or self._latest > own:
            return own - min(LONGEST_MARGIN, left * MARGIN_SHARE)
        # The service's has a margin of its own, and is no earlier than the start that it has planned.
        return self._latest

    def told(self, token: int, kind: Signal, latest_start: datetime | None = None) -> bool:
        """Take a signal; return False for one that is not newer than the last one, which has no effect.

        Args:
            token: Its fencing token.
            kind: What it says.
            latest_start: For a suspension: when the work resumes by itself.
        """
        if token <= self.token:
            return False
        self.token = token
        self._wanted = kind is not Signal.SUSPEND
        self._final |= kind is Signal.DEADLINE
        self._bound(latest_start)
        return True

    def _bound(self, latest_start: datetime | None) -> None:
        if latest_start != self._latest:
            self._latest, self._by_elapsed_s = latest_start, None

    def answered(self, token: int, latest_start: datetime | None) -> None:
        """Take the latest start of the reservation as it stood at signal *token*; 0 before any signal."""
        if token >= self.token:
            self._bound(latest_start)

    def order(self, now: datetime, elapsed_s: float, *, worked: timedelta = timedelta(0)) -> Order:
        """Return what to do, and take it as done: the next call does not say it again.

        Args:
            now: Wall clock, with a time zone.
            elapsed_s: A clock that never steps: a wall clock that is set back does not prolong the wait.
            worked: Time that the work has run.
        """
        latest = self.latest_start(worked)
        if not self.running and self._is_due(latest, now, elapsed_s):
            return self._run(by_itself=not self._wanted, final=True)
        if self._wanted and not self.running:
            return self._run(by_itself=False, final=False)
        if not self._wanted and self.running and self._may_stop(latest, now):
            self.running, self._by_elapsed_s = False, None
            return Order(Effect.SUSPEND, self.token, until=latest)
        return Order(None, self.token, until=None if self.running else latest)

    def _is_due(self, latest: datetime, now: datetime, elapsed_s: float) -> bool:
        if self._by_elapsed_s is None or latest != self._by_elapsed_s[0]:
            self._by_elapsed_s = latest, elapsed_s + (latest - now).total_seconds()
        return now >= latest or elapsed_s >= self._by_elapsed_s[1]

    def _may_stop(self, latest: datetime, now: datetime) -> bool:
        return self._interruptible and not self._final and now < latest

    def _run(self, *, by_itself: bool, final: bool) -> Order:
        effect = Effect.RESUME if self.started else Effect.START
        if effect is Effect.START and by_itself:
            # A START that comes later has this token, and so no effect.
            self.token = max(self.token, self._start_token)
        self.started = self.running = self._wanted = True
        self._final |= final
        return Order(effect, self.token, by_itself)
