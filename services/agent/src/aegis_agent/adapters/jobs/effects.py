"""What else changes in Redis when a job changes: queues, indexes, events, announcements."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from aegis_agent.adapters.jobs import hold_notes, keys, usage
from aegis_agent.adapters.jobs.records import to_record
from aegis_agent.domain.jobs.job import Job, Phase, State
from aegis_agent.domain.jobs.machine import keeps_place

Command = tuple[str | bytes | int, ...]

MAX_EVENTS: Final = 256
_EVENTS_AFTER_END: Final = timedelta(hours=1)
STATE_EVENT: Final = "state"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What the jobs of one tenant may be.

    Attributes:
        unfinished: Most unfinished jobs.
        ended: Most ended jobs that are kept: the oldest go first.
        bytes: Most bytes of payloads, results and checkpoints with which a job is created: jobs that ended
            more than ten minutes ago make room, the oldest first.
    """

    unfinished: int
    ended: int
    bytes: int


def commands(
    old: Job | None,
    new: Job,
    *,
    bounds: Bounds,
    result: bytes | None = None,
    drop: str = "",
    accounts: usage.Accounts | None = None,
) -> list[Command]:
    """Return the commands that take the store from *old* (None: nothing) to *new*, but for the payload.

    Args:
        old: The job as it is.
        new: The job as it shall be.
        bounds: Of its tenant.
        result: Encoded result to keep with it.
        drop: Entry of a runner to remove, or empty.
        accounts: How usage is noted for the ledger; None where there is none.
    """
    member, job_key = new.ref.member, keys.job(new.ref)
    made: list[Command] = [("HSET", job_key, *_fields(new))]
    if result is not None:
        made.append(("PUT_FIELD", new.tenant, job_key, "result", result))
    if old is None:
        made.append(("ZADD", keys.index(new.tenant), 0, new.job_id))
    if old is None or old.state is not new.state:
        if old is not None:
            made.append(("ZREM", keys.index(old.tenant, old.state), old.job_id))
        made.append(("ZADD", keys.index(new.tenant, new.state), 0, new.job_id))
    made += _queue(old, new, drop)
    made += _schedules(old, new, member)
    made += _end(old, new, job_key, bounds)
    made += _events(new)
    if accounts is not None and (note := usage.note(old, new, accounts)):
        made.append(("OUTBOX", keys.USAGE, usage.MOST_NOTES, "usage", note))
    made += [
        ("OUTBOX", keys.HOLDS, hold_notes.MOST_NOTES, "note", note) for note in hold_notes.notes(old, new)
    ]
    taken = old is not None and old.phase is Phase.QUEUED and new.has_ended
    if new.phase is Phase.CANCELLING or taken:  # a runner may have it
        made.append(("PUBLISH", keys.SIGNALS, f"{keys.CANCEL} {member}"))
    return made


def _fields(job: Job) -> tuple[str | int, ...]:
    phase = job.phase.value if job.phase else ""
    values: dict[str, str | int] = {
        "record": to_record(job),
        "revision": job.revision,
        "attempt": job.attempt,
        "runner": job.runner,
        "phase": phase,
        "request": job.request_id,
    }
    return tuple(item for pair in values.items() for item in pair)


def _queue(old: Job | None, new: Job, drop: str) -> list[Command]:
    made: list[Command] = []
    left = old.entry if old is not None and old.entry != new.entry else ""
    made += [("RELEASE", entry) for entry in sorted({left, drop} - {""})]
    waited = old is not None and old.phase is Phase.QUEUED
    waits = new.phase is Phase.QUEUED
    if old is not None and waited and not (waits and old.queue_number == new.queue_number):
        made.append(("DEQUEUE", *place_of(old)))
    if waits and (old is None or old.queue_number != new.queue_number):
        made.append(("ENQUEUE", *place_of(new), "first" if keeps_place(old, new) else "last"))
        made.append(("PUBLISH", keys.SIGNALS, keys.WORK))
    return made


def place_of(job: Job) -> tuple[str, str, str, str]:
    """Return where a job waits: tenant, class, tool, and itself as it stands there."""
    item = f"{job.job_id} {job.queue_number}"
    return job.tenant, keys.queue_class(job.spec.priority), job.spec.tool, item


def _schedules(old: Job | None, new: Job, member: str) -> list[Command]:
    waiting = None if new.has_ended or new.runs else new.spec.deadline
    waited = None if old is None or old.has_ended or old.runs else old.spec.deadline
    made: list[Command] = []
    for key, before, after in (
        (keys.DELAYED, old.wait_until if old else None, new.wait_until),
        (keys.CARBON, old.ask_carbon_at if old else None, new.ask_carbon_at),
        (keys.DEADLINES, waited, waiting),
        (keys.EXPIRY, old.expires if old else None, new.expires),
    ):
        if after is not None and after != before:
            made.append(("ZADD", key, keys.score(after), member))
        elif after is None and before is not None:
            made.append(("ZREM", key, member))
    return made


def _end(old: Job | None, new: Job, job_key: str, bounds: Bounds) -> list[Command]:
    had_ended = old is not None and old.has_ended
    made: list[Command] = []
    if new.has_ended and not had_ended and new.ended is not None:
        made.append(("ZADD", keys.ended(new.tenant), keys.score(new.ended), new.job_id))
        if new.state is State.COMPLETED:
            made.append(("PUT_FIELD", new.tenant, job_key, "checkpoint", ""))
        made.append(("KEEP_NEWEST", new.tenant, bounds.ended, bounds.bytes, 0))
    if had_ended:
        made.append(("ZREM", keys.ended(new.tenant), new.job_id))
        made += [("PERSIST", keys.events(new.ref)), ("HDEL", job_key, "progress")]
    return made


def _events(new: Job) -> list[Command]:
    key = keys.events(new.ref)
    made: list[Command] = [
        (
            *("XADD", key, "MAXLEN", "~", MAX_EVENTS, "*"),
            *("kind", STATE_EVENT, "data", to_record(new), "attempt", new.attempt),
        ),
        ("PUBLISH", keys.channel(new.ref), ""),
    ]
    if new.has_ended:
        made.append(("PEXPIRE", key, int(_EVENTS_AFTER_END.total_seconds() * 1000)))
    return made


def flat(made: list[Command]) -> list[str | bytes | int]:
    """Return commands as the scripts read them: each after its count of words."""
    return [word for command in made for word in (len(command), *command)]
