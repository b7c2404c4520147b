"""The holder's side of a reservation: says when work starts, stops and goes on, and is never late."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from aegis_client.carbon_plans import PlannedJob
from aegis_client.errors import AegisApiError
from aegis_client.reservation_forms import Reservation, ReservationSignal
from aegis_common.reservation_holder import Effect, Order, ReservationHolder, Signal

if TYPE_CHECKING:
    from aegis_client.client import AsyncClient

_WAIT: Final = timedelta(days=1)
"""What `max_wait` is where neither it nor a deadline is given."""
_LONGEST_ANSWER_S: Final = 10.0
_SHORTEST_ANSWER_S: Final = 0.1
_LATE_ANSWER_S: Final = 2.0
"""The same where it is late already, so that the service can say why it refuses."""
_LEAVING_S: Final = 3.0
"""Longest wait for the service once the work has ended."""
_LONGEST_PAUSE_S: Final = 30.0
_FIRST_PAUSE_S: Final = 0.5
_PASSING: Final = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "ABORTED", "INTERNAL"})
_NONE_HERE: Final = "RESERVATIONS_NOT_CONFIGURED"
_SIGNALS: Final = {kind.value: kind for kind in Signal}
_EVENTS: Final = {Effect.START: "started", Effect.SUSPEND: "suspended", Effect.RESUME: "resumed"}


@dataclass(frozen=True, slots=True)
class _Report:
    event: str
    token: int
    time: datetime
    work_done: timedelta


class ReservationHold:
    """Reserves a place in time for work, and says what to do with the work.

        async with ReservationHold(client, job) as hold:
            async for order in hold:
                ...  # order.effect is START, SUSPEND or RESUME: carry it out; when the work ends: hold.end()

    It reconnects by itself and reports what was done. At the latest start it says START (or RESUME) whatever
    the service says, and whether or not it can be reached, or has reservations at all. When the block is
    left, what has started is reported as finished, and what has not is cancelled.

    Args:
        client: Calls the deployment.
        job: What is to be run.
        pool: As for `client.reservations.create`; so are `on_missing`, `max_hold`, `labels`, `request_id`.
        holder: Names who runs the work, to tell it from another with the same reservation.
        worked: Returns the time that the work has run; None: all the time between a START or RESUME and the
            next SUSPEND.

    Attributes:
        reservation: As it stands, so far as it is known; None where there is none.
        signal: The last signal that had an effect; None before the first.
        fault: Why the service is not followed now; empty while it is.
    """

    def __init__(
        self,
        client: AsyncClient,
        job: PlannedJob,
        *,
        pool: str = "",
        on_missing: str = "run_now",
        max_hold: float | timedelta | None = None,
        labels: Mapping[str, str] | None = None,
        request_id: str = "",
        holder: str = "",
        worked: Callable[[], timedelta] | None = None,
    ) -> None:
        self._client = client
        wait = _WAIT if job.max_wait is None else _span(job.max_wait)
        earliest = job.earliest_start_time or datetime.now(UTC)
        deadline = job.deadline or earliest + wait + _span(job.duration)
        self._job = replace(job, deadline=deadline, max_wait=None)
        self._reserve = partial(
            client.reservations.create,
            self._job,
            pool=pool,
            on_missing=on_missing,
            max_hold=max_hold,
            labels=labels,
            request_id=request_id,
        )
        self._name = holder
        self._rules = ReservationHolder(deadline, _span(job.duration), interruptible=job.interruptible)
        self.reservation: Reservation | None = None
        self.signal: ReservationSignal | None = None
        self.fault = ""
        self._wake = asyncio.Event()
        self._over = False
        self._lost: AegisApiError | None = None
        self._clocked = worked
        self._worked = timedelta(0)
        self._since: float | None = None
        self._reports: asyncio.Queue[_Report] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def worked(self) -> timedelta:
        """Time that the work has run so far."""
        if self._clocked is not None:
            return self._clocked()
        running = 0.0 if self._since is None else time.monotonic() - self._since
        return self._worked + timedelta(seconds=running)

    @property
    def latest_start(self) -> datetime:
        """Last moment at which the work starts, or goes on, by itself."""
        return self._rules.latest_start(self.worked)

    def end(self) -> None:
        """Say that the work has ended: no more orders come."""
        self._over = True
        self._wake.set()

    async def reported(self) -> None:
        """Wait until the service has heard of all that was done so far."""
        await self._reports.join()

    async def __aenter__(self) -> Self:
        """Reserve.

        Raises:
            AegisApiError: The service refuses the job for good; for example its zone, or its deadline. One
                that cannot be reached refuses nothing.
        """
        try:
            made = await self._reserve(timeout=self._patience_s())
        except AegisApiError as error:
            if error.code not in _PASSING and error.reason != _NONE_HERE:
                raise
            self.fault = error.reason or error.code
            return self
        self._rules = ReservationHolder(
            made.deadline or self.latest_start,
            _span(self._job.duration),
            start_token=made.start_token,
            interruptible=self._job.interruptible,
        )
        self._stands(made)
        self._tasks = [
            asyncio.create_task(self._watch(made.name)),
            asyncio.create_task(self._send(made.name)),
        ]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()
        if self.reservation is not None and self._lost is None:
            with suppress(AegisApiError, TimeoutError):
                async with asyncio.timeout(_LEAVING_S):
                    await self._give_back(self.reservation)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def __aiter__(self) -> AsyncIterator[Order]:
        return self

    async def __anext__(self) -> Order:
        """Return the next thing to do, when its time has come.

        Raises:
            Aborted: Reason `STALE_TOKEN`: another holder has made this start; do not run the work twice.
        """
        while True:
            if self._lost is not None:
                raise self._lost
            cancelled = self.reservation is not None and self.reservation.state == "CANCELLED"
            if self._over or cancelled:
                raise StopAsyncIteration
            self._wake.clear()
            now = datetime.now(UTC)
            order = self._rules.order(now, time.monotonic(), worked=self.worked)
            if order.effect is not None:
                self._done(order.effect, order.token, now)
                return order
            pause = _LONGEST_PAUSE_S if order.until is None else (order.until - now).total_seconds()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(_LONGEST_PAUSE_S, max(0.0, pause))):
                    await self._wake.wait()

    def _patience_s(self) -> float:
        """Return how long the service may take for its answer: not beyond the latest start."""
        left = (self.latest_start - datetime.now(UTC)).total_seconds() / 2
        if left <= 0:
            return _LATE_ANSWER_S
        return min(_LONGEST_ANSWER_S, max(_SHORTEST_ANSWER_S, left))

    def _done(self, effect: Effect, token: int, now: datetime) -> None:
        if effect is Effect.SUSPEND:
            self._worked, self._since = self.worked, None
        else:
            self._since = time.monotonic()
        self._reports.put_nowait(_Report(_EVENTS[effect], token, now, self.worked))

    async def _give_back(self, reservation: Reservation) -> None:
        if self._rules.started:
            self._reports.put_nowait(_Report("finished", self._rules.token, datetime.now(UTC), self.worked))
            await self.reported()
        else:
            self.reservation = await self._client.reservations.cancel(reservation.name)

    def _stands(self, found: Reservation) -> None:
        self.reservation = found
        if found.signal is not None:
            self._told(found.signal)
        self._rules.answered(found.signal.token if found.signal else 0, found.latest_start_time)
        self._wake.set()

    def _told(self, signal: ReservationSignal) -> None:
        if signal.kind not in _SIGNALS:
            return
        if self._rules.told(signal.token, _SIGNALS[signal.kind], signal.latest_start_time):
            self.signal = signal
            self._wake.set()

    async def _watch(self, name: str) -> None:
        token, pause = "", _FIRST_PAUSE_S
        while True:
            try:
                async for event in self._client.reservations.watch(name, resume_token=token):
                    self.fault, token, pause = "", event.resume_token, _FIRST_PAUSE_S
                    if event.signal is not None:
                        self._told(event.signal)
                    if event.reservation is not None:
                        self._stands(event.reservation)
            except AegisApiError as error:
                self.fault = error.reason or error.code
                if error.code == "NOT_FOUND":
                    return
                if error.code == "INVALID_ARGUMENT":
                    token = ""
            else:
                return
            await asyncio.sleep(pause)
            pause = min(_LONGEST_PAUSE_S, 2 * pause)

    async def _send(self, name: str) -> None:
        while True:
            report = await self._reports.get()
            await self._reported(name, report)
            self._reports.task_done()

    async def _reported(self, name: str, report: _Report) -> None:
        pause = _FIRST_PAUSE_S
        while True:
            try:
                found = await self._client.reservations.report(
                    name,
                    report.event,
                    token=report.token,
                    holder=self._name,
                    event_time=report.time,
                    work_done=report.work_done,
                )
            except AegisApiError as error:
                if error.reason == "STALE_TOKEN" and report.event == "started":
                    self._lost = error
                    self._wake.set()
                if error.code not in _PASSING or error.reason == "STALE_TOKEN":
                    return
            else:
                self._stands(found)
                return
            await asyncio.sleep(pause)
            pause = min(_LONGEST_PAUSE_S, 2 * pause)


def _span(value: float | timedelta) -> timedelta:
    return value if isinstance(value, timedelta) else timedelta(seconds=value)
