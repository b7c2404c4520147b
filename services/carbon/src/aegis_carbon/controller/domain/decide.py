"""What is done with a Job now. Pure: whoever calls has the clock, and carries it out."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Final

from aegis_carbon.controller.domain import notes
from aegis_carbon.controller.domain.case import (
    RUN_NOW,
    Case,
    Decision,
    Known,
    Memory,
    Rules,
    booked,
    worked,
)
from aegis_carbon.controller.domain.job import Job
from aegis_carbon.controller.domain.ports import Change, Note
from aegis_carbon.controller.domain.record import NAME, RECORD, Phase, Record, digest, record_of
from aegis_carbon.controller.domain.reservations import Reservation, State
from aegis_carbon.domain.job_wish import InvalidAnnotation, is_wish, job_wish, unknown_wishes
from aegis_common.reservation_holder import Effect, Order, ReservationHolder, Signal

_WRITTEN: Final = frozenset({NAME})


def decide(
    job: Job,
    known: Known,
    memory: Memory | None,
    *,
    tenant: str,
    rules: Rules,
    now: datetime,
    elapsed_s: float,
) -> Decision:
    """Return what to do about *job*.

    Args:
        job: As it was seen last.
        known: What the carbon service has said of it.
        memory: What an earlier decision has left.
        tenant: Tenant of its namespace; empty: none.
        rules: What an operator has set.
        now: Present time (UTC).
        elapsed_s: A clock that never steps.
    """
    if job.ended is not None:
        return Decision()
    record = record_of(job.annotations)
    if job.managed_by:
        return Decision(notes=(notes.managed_elsewhere(job.managed_by),))
    if not is_wish(job.annotations):
        return _given_back(job, record)
    try:
        wish = job_wish(job.annotations, created=job.created)
    except InvalidAnnotation as error:
        return _let_run(job, record, notes.bad_annotation(error.message), now)
    if not tenant:
        return _let_run(job, record, notes.namespace_not_mapped(job.namespace), now)
    case = Case(
        job, tenant, wish, digest(job.annotations), record, known, memory, rules, now=now, elapsed_s=elapsed_s
    )
    decision = _followed(case)
    stray = unknown_wishes(job.annotations, written=_WRITTEN)
    return replace(decision, notes=(*decision.notes, notes.unknown(stray))) if stray else decision


def _given_back(job: Job, record: Record | None) -> Decision:
    """The wish was taken back: what we suspended goes on, what was created suspended stays so."""
    if record is None:
        return Decision()
    resume = job.suspended and record.held and not record.found_suspended
    told = (notes.taken_back(),) if record.held else ()
    return Decision(Change(suspend=False if resume else None, record=None), told)


def _let_run(job: Job, record: Record | None, note: Note, now: datetime) -> Decision:
    """It cannot be followed: it runs, as without us."""
    wish = digest(job.annotations)
    if record is not None and record.phase is Phase.RELEASED and record.wish == wish:
        return Decision(notes=(note,))
    held = record.held if record is not None else job.handed_over or RECORD in job.annotations
    if not (job.suspended and held) and record is None:
        return Decision(notes=(note,))
    released = Record(wish=wish, phase=Phase.RELEASED, since=now)
    return Decision(Change(False if job.suspended and held else None, released), (note,))


def _followed(case: Case) -> Decision:
    job, record = case.job, case.record
    if record is not None and record.wish != case.digest:
        if record.held and job.suspended:
            fresh = case.record_of(Phase.WAITING, found_suspended=record.found_suspended)
            return Decision(Change(None, fresh), (notes.wish_changed(),))
        record = None
    if record is None:
        return _first(case)
    if record.phase is Phase.RELEASED:
        return Decision()
    if record.held and not job.suspended:
        token = max(record.token, record.start_token)
        running = replace(record, phase=Phase.RUNNING, since=case.now, token=token, whole=True)
        return Decision(Change(None, running), (notes.resumed_elsewhere(),))
    if not record.held and job.suspended:
        released = replace(record, phase=Phase.RELEASED, since=case.now)
        return Decision(Change(None, released), (notes.suspended_elsewhere(),))
    return _held(case, record)


def _first(case: Case) -> Decision:
    """Nothing was done with it yet, for this wish."""
    job = case.job
    if job.suspended:
        if not (job.handed_over or RECORD in job.annotations):
            return Decision(notes=(notes.suspended_elsewhere(),))
        taken = case.record_of(Phase.WAITING, found_suspended=job.handed_over)
        return Decision(Change(None, taken))
    if case.now >= case.latest_start():
        return Decision(notes=(notes.no_slack(case.wish.deadline),))
    if not job.started:
        if case.known.trouble and case.wish.on_missing == RUN_NOW:
            return Decision(notes=(notes.carbon_unavailable(case.known.trouble),))
        taken = case.record_of(Phase.WAITING)
        return Decision(Change(suspend=True, record=taken), (notes.waiting(case.latest_start()),))
    if not case.wish.interruptible:
        return Decision(notes=(notes.already_running(),))
    return _first_of_running(case)


def _first_of_running(case: Case) -> Decision:
    """It runs and may be interrupted: it is, if its reservation says that it had better wait."""
    found = case.reservation
    if case.known.refusal is not None:
        return Decision(notes=(notes.refused(case.known.refusal),))
    if found is None:
        return Decision(wanted=case.wanted)
    if not found.open:
        return Decision()
    if found.signal is not None and found.signal.kind is not Signal.SUSPEND:
        whole = found.signal.kind is Signal.DEADLINE
        running = replace(case.record_of(Phase.RUNNING, whole=whole), token=found.signal.token)
        return Decision(Change(None, running))
    if found.state is not State.WAITING or found.starts is None:
        return Decision()
    if found.starts <= case.now + case.rules.pod_start:
        return Decision(again=found.starts)
    waiting = case.record_of(Phase.WAITING)
    return Decision(
        Change(suspend=True, record=waiting), (notes.waiting(_latest(case, found), found.starts),)
    )


def _latest(case: Case, found: Reservation) -> datetime:
    return min(case.latest_start(), found.latest_start or case.latest_start())


def _held(case: Case, record: Record) -> Decision:
    """It waits, runs or is suspended by us, under a reservation or while it waits for one."""
    found = case.reservation
    if found is not None and not found.open:
        if not record.held:
            return Decision(again=_late(case), notes=_missed(case))
        return _released(case, record, notes.reservation_ended(found.message))
    if found is None and not record.reservation and record.held:
        gives_up = case.gives_up(record)
        if case.known.refusal is not None:
            return _released(case, record, notes.refused(case.known.refusal))
        if case.now >= gives_up:
            late = case.now >= case.latest_start()
            alone = notes.carbon_unavailable(case.known.trouble)
            return _released(case, record, notes.deadline_near(case.wish.deadline) if late else alone)
        return replace(_ordered(case, record, None, again=gives_up), wanted=case.wanted)
    return _ordered(case, record, found)


def _released(case: Case, record: Record, note: Note) -> Decision:
    released = replace(record, phase=Phase.RELEASED, since=case.now)
    return Decision(Change(suspend=False, record=released), (note,))


def _ordered(
    case: Case, record: Record, found: Reservation | None, *, again: datetime | None = None
) -> Decision:
    base = booked(record, found)
    holder = case.holder(base)
    if found is not None:
        _listen(holder, found)
    done = worked(base, case.now, case.rules)
    latest = holder.latest_start(done)
    order = holder.order(case.now, case.elapsed_s, worked=done)
    if order.effect is None:
        looks = min(filter(None, (again, order.until)), default=None) if base.held else _late(case)
        if base == record:
            return Decision(memory=Memory(base, holder), again=looks, notes=_missed(case))
        starts = found.starts if found is not None else None
        told = (notes.waiting(latest, starts),) if base.held else ()
        return Decision(Change(None, base), told, memory=Memory(base, holder), again=looks)
    if order.effect is Effect.SUSPEND:
        after = replace(
            base,
            phase=Phase.SUSPENDED,
            since=case.now,
            token=order.token,
            worked=done,
            stops=base.stops + 1,
            latest=order.until,
            found_suspended=False,
        )
        note = notes.suspended(_said(found), latest)
        return Decision(Change(suspend=True, record=after), (note,), memory=Memory(after, holder))
    return _begun(case, base, found, holder, order, late=case.now >= latest)


def _begun(
    case: Case,
    base: Record,
    found: Reservation | None,
    holder: ReservationHolder,
    order: Order,
    *,
    late: bool,
) -> Decision:
    final = found is not None and found.signal is not None and found.signal.kind is Signal.DEADLINE
    whole = late or order.by_itself or final
    # Without a reservation there is nobody to follow from here on.
    phase = Phase.RUNNING if base.reservation else Phase.RELEASED
    after = replace(base, phase=phase, since=case.now, token=order.token, whole=whole)
    if whole:
        note = notes.deadline_near(case.wish.deadline, by_itself=order.by_itself)
    else:
        note = notes.begun(_said(found), again=order.effect is Effect.RESUME)
    return Decision(Change(suspend=False, record=after), (note,), memory=Memory(after, holder))


def _listen(holder: ReservationHolder, found: Reservation) -> None:
    if found.signal is None:
        holder.answered(0, found.latest_start)
        return
    holder.told(found.signal.token, found.signal.kind, found.signal.latest_start)
    holder.answered(found.signal.token, found.latest_start or found.signal.latest_start)


def _said(found: Reservation | None) -> str:
    return found.signal.message if found is not None and found.signal is not None else ""


def _late(case: Case) -> datetime | None:
    return case.wish.deadline if case.now < case.wish.deadline else None


def _missed(case: Case) -> tuple[Note, ...]:
    running = case.record is not None and case.record.phase is Phase.RUNNING
    late = case.now >= case.wish.deadline
    return (notes.deadline_missed(case.wish.deadline, case.wish.duration),) if running and late else ()
