"""What jobs need from outside: a store that loses nothing, the tools, and the carbon service."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from aegis_agent.domain.call import Priority, Progress
from aegis_agent.domain.jobs.job import CarbonAnswer, CarbonPolicy, Job, JobRef, State

Change = Callable[[Job], Job | None]
"""Returns the job as it shall be, or None for no change; it may be called again, with a newer job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredJob:
    """A job with what lies beside its record.

    Attributes:
        payload: Encoded parts of the input.
        result: Encoded parts of the result, or empty.
        progress: The last that the tool told, or None.
    """

    job: Job
    payload: bytes
    result: bytes
    progress: Progress | None


class JobStore(Protocol):
    """Keeps jobs. What a method has returned from is on disk.

    Every method raises `JobStoreUnavailable` when the store does not answer, and `UnreadableJob` for a record
    that it cannot read.
    """

    async def create(self, job: Job, *, payload: bytes, request_hash: str) -> Job:
        """Keep a new job, and return it; with a request id that is known already, return that job.

        Raises:
            RequestIdReused: The id came with another job.
            TooManyJobs: The tenant has as many unfinished jobs as it may have.
        """
        ...

    async def known(self, tenant: str, request_id: str, *, request_hash: str) -> Job | None:
        """Return the job that came with the request id before, or None.

        Raises:
            RequestIdReused: The id came with another job.
        """
        ...

    async def load(self, ref: JobRef) -> Job:
        """Return the job.

        Raises:
            UnknownJob: There is none.
        """
        ...

    async def load_whole(self, ref: JobRef) -> StoredJob:
        """Return the job with its payload, result and progress.

        Raises:
            UnknownJob: There is none.
        """
        ...

    async def newest(
        self, tenant: str, *, state: State | None, before: str, count: int
    ) -> Sequence[tuple[str, Job | None]]:
        """Return ids and jobs, newest first, from the one after the id *before*, or from the newest.

        A job that was deleted meanwhile is None.
        """
        ...

    async def progress(self, refs: Sequence[JobRef]) -> Sequence[Progress | None]:
        """Return the last progress of each."""
        ...

    async def update(self, ref: JobRef, change: Change, *, known: Job | None = None) -> Job | None:
        """Change a job in one step with everything that points to it; return it, or None if nothing was done.

        Args:
            ref: The job.
            change: Says what it becomes; whatever it raises is passed on.
            known: The job as it was last seen, to save a look.

        Raises:
            UnknownJob: There is none.
        """
        ...

    async def delete(self, job: Job, *, now: datetime) -> None:
        """Delete an ended job that is not kept longer than *now*, and its request id."""
        ...

    async def queue_length(self, priority: Priority) -> int:
        """Return how many jobs of that class wait for a slot, of all tenants."""
        ...

    async def ahead(self, job: Job) -> int | None:
        """Return how many jobs of its tenant and class wait before a job; None when it does not wait."""
        ...


class Carbon(Protocol):
    """Asks the carbon service for a stored principal."""

    async def ask(self, policy: CarbonPolicy, *, principal: str, traceparent: str) -> CarbonAnswer:
        """Return its answer; one with reason `CARBON_UNAVAILABLE` when it gives none.

        Raises:
            UnknownZone: The zone does not exist.
        """
        ...


class Reservations(Protocol):
    """Holds the places in time of jobs that reserve, at the carbon service."""

    async def hold(self, job: Job) -> CarbonAnswer | None:
        """Return what holds for the job's reservation, which is made if need be: the same one each time.

        Returns:
            None where the service has no reservations; an answer without a `hold` when it does not answer.

        Raises:
            AegisError: The service refuses the job, for example its zone, or because its pool is full.
        """
        ...


class KeptArtifacts(Protocol):
    """Lets artifacts live as long as the jobs that name them."""

    async def keep(self, tenant: str, names: Collection[str], *, until: datetime) -> None:
        """Let artifacts live until then, or longer if they do already; those that are not there are left out.

        Raises:
            StoreUnavailable: The artifact store does not answer.
        """
        ...
