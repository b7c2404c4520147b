"""What an attempt of a job used, noted in the same step as its end, until the ledger has it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from aegis_agent.domain.jobs.job import Job

MOST_NOTES: Final = 1_000_000
"""Notes that are kept while the ledger is away; further ones are dropped and counted."""
SCHEMA_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Accounts:
    """How usage is noted.

    Attributes:
        zone: `zones/{zone}` in which jobs run here, or empty for the carbon service's default.
    """

    zone: str = ""


def note(old: Job | None, new: Job, accounts: Accounts) -> str:
    """Return the note of the attempt that ends between *old* and *new*, or an empty text.

    Nothing is noted of an attempt that nobody measured: one whose runner was lost, for example.
    """
    last = new.attempts[-1] if new.attempts else None
    if old is None or last is None or last.ended is None or last.usage.cpu_s is None:
        return ""
    if old.attempts and old.attempts[-1].number == last.number and old.attempts[-1].ended is not None:
        return ""
    fields: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "id": f"job-{new.job_id}-{last.number}",
        "tenant": new.tenant,
        "job": new.job_id,
        "tool": new.spec.tool,
        "model": new.model_version.split("/")[1] if new.model_version else "",
        "zone": accounts.zone,
        "start": last.started.isoformat(),
        "end": last.ended.isoformat(),
        "cpu_s": last.usage.cpu_s,
        "peak_bytes": last.usage.peak_bytes or 0,
        "run_now": _run_now(new, last.started, first=last.number == 1),
    }
    return json.dumps(fields, separators=(",", ":"))


def _run_now(job: Job, started: datetime, *, first: bool) -> str | None:
    """Return when a job that waited for a clean grid would have started without; of its first attempt."""
    if job.spec.carbon is None or not first:
        return None
    return min(max(job.created, job.spec.not_before or job.created), started).isoformat()
