"""What became of a job with a carbon reservation, noted in the same step, until carbon has heard of it."""

from __future__ import annotations

import json
from datetime import datetime
from enum import StrEnum
from typing import Final

from aegis_agent.domain.jobs.job import Hold, Job

MOST_NOTES: Final = 1_000_000
"""Notes that are kept while the carbon service is away; further ones are dropped and counted."""
SCHEMA_VERSION: Final = 1


class Event(StrEnum):
    """What a note says."""

    STARTED = "STARTED"
    FINISHED = "FINISHED"
    CANCELLED = "CANCELLED"


def notes(old: Job | None, new: Job) -> list[str]:
    """Return the notes of what happened to the reservation of a job between *old* and *new*."""
    hold = new.hold
    if hold is None:
        return []
    before = old if old is not None and old.hold is not None and old.hold.name == hold.name else None
    made = []
    if hold.started and not (before is not None and before.hold is not None and before.hold.started):
        made.append(_note(new, hold, Event.STARTED, new.attempts[-1].started))
    if new.ended is not None and new.has_ended and not (before is not None and before.has_ended):
        event = Event.FINISHED if hold.started else Event.CANCELLED
        made.append(_note(new, hold, event, new.ended))
    return made


def _note(job: Job, hold: Hold, event: Event, at: datetime) -> str:
    fields = {
        "schema_version": SCHEMA_VERSION,
        "tenant": job.tenant,
        "job": job.job_id,
        "reservation": hold.name,
        "event": event.value,
        "token": hold.start_token,
        "at": at.isoformat(),
    }
    return json.dumps(fields, separators=(",", ":"))
