"""The Jobs of a cluster and their Events, as the controller needs them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from aegis_carbon.controller.domain.job import Job
from aegis_carbon.controller.domain.record import Record
from aegis_common.errors import AegisError, ErrorKind


class ApiUnavailable(AegisError):
    """The API server did not do what it was asked for; later it may."""

    kind = ErrorKind.UNAVAILABLE
    reason = "KUBERNETES_API_UNAVAILABLE"


class Changed(AegisError):
    """The object was changed, or deleted, since it was read."""

    kind = ErrorKind.ABORTED
    reason = "OBJECT_CHANGED"


@dataclass(frozen=True, slots=True)
class Change:
    """A change of a Job.

    Attributes:
        suspend: New value of `spec.suspend`; None leaves it.
        record: The new record; None removes it.
    """

    suspend: bool | None
    record: Record | None


@dataclass(frozen=True, slots=True)
class Note:
    """Something to tell the owner of a Job, as an Event."""

    reason: str
    message: str
    warning: bool = False


class Jobs(Protocol):
    """Changes Jobs, and tells about them."""

    async def change(self, job: Job, change: Change) -> Job:
        """Make a change of *job* as it was read, in one step.

        Raises:
            Changed: It is not any more as it was read.
            ApiUnavailable: It may or may not have been made.
        """
        ...

    async def read(self, namespace: str, name: str, uid: str) -> Job | None:
        """Return a Job as it is now; None if it is gone, or is another one of its name.

        Raises:
            ApiUnavailable: It is not known.
        """
        ...

    async def tell(self, job: Job, note: Note) -> None:
        """Write an Event; the same one again counts up.

        Raises:
            ApiUnavailable: It was not written.
        """
        ...
