"""The times of a job that waits for a clean grid."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from aegis_agent.domain.jobs.job import Hold, Job, JobSpec

DEFAULT_MAX_WAIT: Final = timedelta(hours=1)
HORIZON: Final = timedelta(days=7) - timedelta(minutes=1)
"""How far ahead a reservation may end, less a moment for the clocks."""
_MARGIN: Final = timedelta(seconds=5)
_MARGIN_SHARE: Final = 0.1


def latest_start(spec: JobSpec, created: datetime) -> datetime | None:
    """Return when a job with a carbon policy starts whatever the grid is like; None without a policy."""
    if spec.carbon is None:
        return None
    begin = _begin(spec, created)
    limits = []
    if spec.deadline is not None:
        limits.append(spec.deadline - spec.duration * (1 + _MARGIN_SHARE) - _MARGIN)
    if spec.carbon.max_wait is not None or not limits:
        limits.append(begin + (DEFAULT_MAX_WAIT if spec.carbon.max_wait is None else spec.carbon.max_wait))
    return max(begin, min(limits))


def begin_of(job: Job) -> datetime:
    """Return the earliest start of a job."""
    return _begin(job.spec, job.created)


def _begin(spec: JobSpec, created: datetime) -> datetime:
    return max(created, spec.not_before or created)


def hold_deadline(job: Job) -> datetime:
    """Return when the reservation of a job has to have ended: the same each time that it is asked for."""
    begin = begin_of(job)
    latest = latest_start(job.spec, job.created) or begin
    return min(latest + job.spec.duration, begin + HORIZON)


def latest_with(job: Job, hold: Hold) -> datetime:
    """Return when a job with a reservation starts by itself: whoever says the earlier moment counts."""
    own = latest_start(job.spec, job.created)
    return max(begin_of(job), hold.latest_start if own is None else min(own, hold.latest_start))
