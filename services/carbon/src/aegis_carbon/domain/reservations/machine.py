"""The steps of a reservation: what time, its holder and its owner make of it; the caller has the clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise

from aegis_carbon.domain.job import Plan, Span
from aegis_carbon.domain.reservations.errors import ReservationEnded, StaleToken
from aegis_carbon.domain.reservations.reservation import (
    NO_TIME,
    Event,
    Kind,
    Reason,
    Reservation,
    Signal,
    State,
)

_STARTS = frozenset({Event.STARTED, Event.RESUMED})


def due(item: Reservation, *, now: datetime, keep: timedelta) -> Reservation | None:
    """Return what its time has made of it, or None while nothing is due."""
    if not item.open or now < item.due:
        return None
    if item.state is not State.RUNNING:
        return _told_to_run(item, now)
    return _told_to_pause(item, now, keep) if len(item.spans) > 1 else _silently_ended(item, now, keep)


def _told_to_run(item: Reservation, now: datetime) -> Reservation:
    late = now >= item.latest_start
    if late:
        kind, reason, message = (
            Kind.DEADLINE,
            Reason.LATEST_START,
            "the latest start has come: run to the end",
        )
    else:
        kind = Kind.RESUME if item.started else Kind.START
        reason = Reason.PLANNED_SPAN if item.plan else Reason.NO_DATA
        message = "a planned span begins" if item.plan else no_data(item)
    return _running(item, since=now, kind=kind, reason=reason, message=message, now=now, whole=late)


def moved(item: Reservation, plan: Plan, *, mark: str, now: datetime) -> Reservation:
    """Return work that waits with another plan for what is left of it.

    Args:
        item: The reservation.
        plan: The plan.
        mark: Tells the forecast that it was made of.
        now: Present time: what is to run now is told so.
    """
    message, signal = "a new forecast changed its plan", item.signal
    if signal is not None and signal.kind is Kind.SUSPEND:
        signal = replace(signal, until=plan.spans[0].start)
    item = replace(
        item,
        spans=plan.spans,
        plan=plan,
        mark=mark,
        signal=signal,
        message=message,
        replans=item.replans + 1,
    )
    if plan.spans[0].start > now:
        return item
    kind = Kind.RESUME if item.started else Kind.START
    return _running(item, since=now, kind=kind, reason=Reason.NEW_FORECAST, message=message, now=now)


def no_data(item: Reservation) -> str:
    """Return what is said of work without a plan."""
    return f"nothing is known of the grid: on_missing is {item.on_missing.value}"


def _running(
    item: Reservation,
    *,
    since: datetime,
    kind: Kind,
    reason: Reason,
    message: str,
    now: datetime,
    whole: bool = False,
) -> Reservation:
    spans = _moved(item, since, whole=whole)
    first = item.started is None
    signal = Signal(
        token=item.start_token if first else item.token + 1,
        kind=kind,
        reason=reason,
        message=message,
        time=now,
        until=spans[0].end if len(spans) > 1 else None,
    )
    return replace(
        item,
        state=State.RUNNING,
        message=message,
        signal=signal,
        spans=spans,
        running_since=since,
        started=item.started or since,
    )


def _moved(item: Reservation, since: datetime, *, whole: bool) -> tuple[Span, ...]:
    """Return the spans of work that began at *since*: no stretch is shorter for it, and pauses are kept."""
    end = since + item.left
    if whole or len(item.spans) <= 1:
        kept = item.spans[0].end if len(item.spans) == 1 else end
        return (Span(since, kept if end < kept <= end + item.reserve else end),)
    first, *rest = item.spans
    delay = since - first.start
    # A moment of delay is made up at the end of all: the pause belongs to others.
    stop = first.end if NO_TIME < delay <= item.reserve else first.end + delay
    return _laid_out(item, (Span(since, stop), *rest)) or (Span(since, end),)


def _laid_out(item: Reservation, planned: Sequence[Span]) -> tuple[Span, ...]:
    """Return spans for the work that is left, to the moment; nothing where it would end too late.

    A stretch that comes too early for the one before follows it without a pause.
    """
    overhead = item.interruption.resume_overhead if item.interruption else NO_TIME
    spans: list[Span] = []
    pauses = sum(after.start > before.end for before, after in pairwise(planned))
    spare = sum((span.end - span.start for span in planned), NO_TIME) - item.left - overhead * pauses
    need = item.left + min(item.reserve, max(NO_TIME, spare))
    for span in planned:
        adjoins = bool(spans) and span.start <= spans[-1].end
        if spans and not adjoins:
            need += overhead
        length = min(span.end - span.start, need)
        if length <= NO_TIME:
            break
        need -= length
        if adjoins:
            spans[-1] = Span(spans[-1].start, spans[-1].end + length)
        else:
            spans.append(Span(span.start, span.start + length))
    if spans and need > NO_TIME:
        spans[-1] = Span(spans[-1].start, spans[-1].end + need)
    late = spans[-1].end - item.last_end if spans else NO_TIME
    if late > NO_TIME:
        # The last pause is shorter for it.
        last = spans.pop()
        if not spans or last.start - late <= spans[-1].end:
            return ()
        spans.append(Span(last.start - late, last.end - late))
    return tuple(spans)


def _told_to_pause(item: Reservation, now: datetime, keep: timedelta) -> Reservation:
    if item.done_by(now) >= item.duration:
        return _silently_ended(item, now, keep)
    paused = _stopped(item, now, item.spans[1:])
    if paused.spans[0].start <= now:
        # There is no time left for a pause: the stretch goes on to the end.
        start = item.running_since or now
        return replace(item, spans=(Span(start, start + item.left),))
    return _with_pause(paused, now, Reason.PLANNED_PAUSE, "a planned pause begins")


def _silently_ended(item: Reservation, now: datetime, keep: timedelta) -> Reservation:
    end = min(now, (item.running_since or now) + item.left)
    message = "nothing was heard by the planned end, so that its end is assumed"
    over = ended(item, State.FINISHED, message, now=end, keep=keep, assumed=True)
    # After a long outage it is still kept for as long from when it was seen.
    return replace(over, expires=now + keep)


def _with_pause(item: Reservation, now: datetime, reason: Reason, message: str) -> Reservation:
    signal = Signal(
        token=item.token + 1,
        kind=Kind.SUSPEND,
        reason=reason,
        message=message,
        time=now,
        until=item.spans[0].start,
        latest_start=item.latest_start,
    )
    return replace(item, message=message, signal=signal)


def _stopped(
    item: Reservation, now: datetime, rest: Sequence[Span], done: timedelta | None = None
) -> Reservation:
    done = item.done_by(now) if done is None else min(done, item.duration)
    item = replace(item, state=State.SUSPENDED, done=done, stops=item.stops + 1, running_since=None)
    start = max(now, item.latest_start)
    return replace(item, spans=_laid_out(item, rest) or (Span(start, start + item.left),))


def ended(
    item: Reservation, state: State, message: str, *, now: datetime, keep: timedelta, assumed: bool = False
) -> Reservation:
    """Return it after its end."""
    return replace(
        item,
        state=state,
        message=message,
        spans=(),
        plan=None,
        done=item.duration if assumed else item.done_by(now),
        running_since=None,
        ended=now,
        expires=now + keep,
        end_assumed=assumed,
    )


def cancelled(item: Reservation, *, now: datetime, keep: timedelta) -> Reservation | None:
    """Return it given back; None if it has ended."""
    return ended(item, State.CANCELLED, "it was cancelled", now=now, keep=keep) if item.open else None


def reported(
    item: Reservation,
    event: Event,
    *,
    token: int,
    holder: str,
    at: datetime,
    work_done: timedelta | None,
    now: datetime,
    keep: timedelta,
) -> Reservation | None:
    """Return what a holder's report makes of it; None if that is known.

    Raises:
        StaleToken: A later signal was given since, or another holder made this start.
        ReservationEnded: It has ended.
    """
    at = min(max(at, item.running_since or item.created), max(now, item.created))
    if not item.open:
        return _after_the_end(item, event, at)
    if holder and item.holder and holder != item.holder:
        raise StaleToken(
            f"{item.holder!r} holds this work, and {holder!r} does not; do not run it twice",
            holder=item.holder,
        )
    said = f"{event.value} {token}"
    if said == item.heard:
        return None
    if event is Event.STARTED and token != item.start_token:
        raise _stale(item, token)
    if item.started and token < item.start_token and event is not Event.FINISHED:
        raise _stale(item, token)
    after = _done(item, event, token, at, work_done, now, keep)
    return None if after is None else replace(after, holder=item.holder or holder, heard=said)


def _done(
    item: Reservation,
    event: Event,
    token: int,
    at: datetime,
    work_done: timedelta | None,
    now: datetime,
    keep: timedelta,
) -> Reservation | None:
    if event is Event.FINISHED:
        done = item.done_by(at) if work_done is None else min(work_done, item.duration)
        over = ended(item, State.FINISHED, "its holder said that it has ended", now=at, keep=keep)
        return replace(over, done=done)
    if event in _STARTS:
        return _began(item, token, at, now)
    if item.state is State.SUSPENDED:
        return item if work_done is None else replace(item, done=min(work_done, item.duration))
    if item.state is not State.RUNNING:
        raise _stale(item, token)
    if token < item.token:
        return None  # it was told to go on meanwhile
    paused = _stopped(item, at, item.spans[1:], work_done)
    return _with_pause(paused, now, Reason.HOLDER, "its holder has suspended it")


def _began(item: Reservation, token: int, at: datetime, now: datetime) -> Reservation:
    if item.state is State.RUNNING:
        moved = _moved(item, at, whole=len(item.spans) <= 1)
        first = item.started is not None and item.token == item.start_token
        return replace(item, running_since=at, spans=moved, started=at if first else item.started)
    if item.state is State.SUSPENDED and token < item.token:
        raise _stale(item, token)
    kind = Kind.RESUME if item.started else Kind.START
    return _running(
        item, since=at, kind=kind, reason=Reason.HOLDER, message="its holder has begun by itself", now=now
    )


def _after_the_end(item: Reservation, event: Event, at: datetime) -> Reservation | None:
    if event is Event.FINISHED:
        # What was assumed is now known.
        return replace(item, end_assumed=False, ended=at) if item.end_assumed else None
    raise ReservationEnded(
        f"reservation {item.id} has ended ({item.state.value})", reservation=item.id, state=item.state.value
    )


def _stale(item: Reservation, token: int) -> StaleToken:
    return StaleToken(
        f"token {token} is not that of the signal which holds now ({item.token}); look at the reservation",
        token=str(token),
        signal_token=str(item.token),
    )
