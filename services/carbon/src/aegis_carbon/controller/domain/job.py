"""A Kubernetes Job, as far as the controller looks at it, and all of them in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from aegis_carbon.controller.domain.record import RECORD
from aegis_carbon.domain.job_wish import is_wish

FIRST_GENERATION: Final = 1
"""Generation of an object whose spec nobody has changed since its creation."""


@dataclass(frozen=True, slots=True)
class Job:
    """One Job.

    Attributes:
        version: `metadata.resourceVersion`, which a change has to name.
        generation: Counts the changes of its spec.
        suspended: `spec.suspend`.
        started: Whether Kubernetes has begun to run it; false again while it is suspended.
        ended: When it has completed or failed; None before.
        managed_by: Who else decides whether it is suspended; empty: nobody.
    """

    uid: str
    namespace: str
    name: str
    version: str
    created: datetime
    annotations: Mapping[str, str] = field(default_factory=dict)
    generation: int = FIRST_GENERATION
    suspended: bool = False
    started: bool = False
    ended: datetime | None = None
    managed_by: str = ""

    @property
    def ours(self) -> bool:
        """Whether it asks for a place in time, or has a record of ours."""
        return is_wish(self.annotations) or RECORD in self.annotations

    @property
    def handed_over(self) -> bool:
        """Whether it was created suspended, so that it waits for us and for nobody else."""
        return self.suspended and self.generation == FIRST_GENERATION


class JobStore:
    """The Jobs that are ours, as they were last seen; those of a scope are there once it was listed.

    Attributes:
        wake: Set when there is something to look at.
    """

    def __init__(self, scopes: Iterable[str]) -> None:
        self._waiting = set(scopes)
        self._jobs: dict[str, Job] = {}
        self._scope_of: dict[str, str] = {}
        self._changed: set[str] = set()
        self.wake: Final = asyncio.Event()

    def look_at(self, uids: Iterable[str]) -> None:
        """Have Jobs looked at: they, or what is known of them, have changed."""
        self._changed.update(uids)
        self.wake.set()

    def take_changed(self) -> set[str]:
        """Return the identities of the Jobs to look at, those that went too, and forget them."""
        taken, self._changed = self._changed, set()
        self.wake.clear()
        return taken

    @property
    def synced(self) -> bool:
        """Whether every scope was listed, so that a Job which is not here does not exist."""
        return not self._waiting

    def all(self) -> list[Job]:
        return list(self._jobs.values())

    def get(self, uid: str) -> Job | None:
        return self._jobs.get(uid)

    def replace(self, scope: str, jobs: Iterable[Job]) -> None:
        """Take *jobs* for all there are in *scope*."""
        new = {job.uid: job for job in jobs if job.ours}
        for uid in [uid for uid, where in self._scope_of.items() if where == scope and uid not in new]:
            self.remove(uid)
        for job in new.values():
            self.put(scope, job)
        self._waiting.discard(scope)
        self.wake.set()

    def put(self, scope: str, job: Job) -> None:
        if not job.ours:
            self.remove(job.uid)
        elif self._jobs.get(job.uid) != job:
            self._jobs[job.uid], self._scope_of[job.uid] = job, scope
            self.look_at([job.uid])

    def update(self, job: Job) -> None:
        """Take what a change of ours has made of a Job that is here."""
        if job.uid in self._jobs:
            self.put(self._scope_of[job.uid], job)

    def remove(self, uid: str) -> None:
        if self._jobs.pop(uid, None) is not None:
            del self._scope_of[uid]
            self.look_at([uid])
