"""Other agents of the same deployment: who there is, and how far each of them is with a change."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from typing import Final, Generic, Protocol, TypeVar

from aegis_common.errors import AegisError, ErrorKind

MAX_WAIT: Final = timedelta(seconds=5)
"""Longest time that the maker of a change waits for the other replicas."""

Report = Callable[[Mapping[str, str]], Awaitable[None]]
"""Told of changes that have been dealt with: id to why it cannot be taken over, or empty."""
T = TypeVar("T")


async def tell_nobody(_faults: Mapping[str, str]) -> None:
    """The report of a replica that is alone."""


@dataclass(frozen=True, slots=True)
class Changed(Generic[T]):
    """What a change has led to.

    Attributes:
        value: What is there now.
        change: Id under which replicas report that they have taken it over; empty if nobody could be told.
    """

    value: T
    change: str


class ReplicaState(Enum):
    """How far a replica is with a change."""

    LIVE = "live"
    LAGGING = "lagging"
    """It has not reported in time, and goes on trying."""
    REFUSED = "refused"
    """It cannot take it over, and tries again within a minute."""
    UNKNOWN = "unknown"
    """There may be replicas that nobody knows of now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaStatus:
    """How far one replica is with a change.

    Attributes:
        replica: Name of its process; empty for `UNKNOWN`.
        address: `host:port` where other replicas reach it, or empty.
        message: Why the change is not in force there, or empty.
    """

    replica: str
    address: str = ""
    state: ReplicaState = ReplicaState.LIVE
    message: str = ""


class Replicas(Protocol):
    """The agents of the deployment, as this one knows them."""

    def listen(self, listener: Callable[[], None]) -> None:
        """Call *listener* in the event loop when something may have been changed elsewhere; a hint only."""
        ...

    def joined(self) -> AbstractAsyncContextManager[None]:
        """While the block runs, other replicas know of this one and wait for its reports."""
        ...

    async def report(self, faults: Mapping[str, str]) -> None:
        """Say that this replica has dealt with changes.

        Args:
            faults: Id of each change to why it cannot be taken over here, or empty where it is in force.
        """
        ...

    async def settled(self, change: str, *, within: timedelta) -> list[ReplicaStatus]:
        """Wait until every replica has reported on a change, and say how far each of them is, this one first.

        Args:
            change: Its id; it is in force here.
            within: Longest wait.
        """
        ...


class NotEverywhere(AegisError):
    """What was asked for is done, and another replica has not followed.

    It is not `UNAVAILABLE`: channels would ask again by themselves until the reason is lost to the deadline.
    """

    kind = ErrorKind.ABORTED
    reason = "REPLICAS_LAG"

    @classmethod
    def of(cls, what: str, behind: Sequence[ReplicaStatus]) -> NotEverywhere:
        told = "; ".join(f"{item.replica}: {item.message}" for item in behind)
        return cls(
            f"{what} here, and recorded for all replicas; not there yet: {told}. Ask again",
            replicas=",".join(item.replica for item in behind),
        )


class Alone:
    """The only replica that there is."""

    def __init__(self, name: str = "", address: str = "") -> None:
        self._status = ReplicaStatus(replica=name, address=address)

    def listen(self, listener: Callable[[], None]) -> None:
        pass

    def joined(self) -> AbstractAsyncContextManager[None]:
        return nullcontext()

    async def report(self, faults: Mapping[str, str]) -> None:
        pass

    async def settled(self, change: str, *, within: timedelta) -> list[ReplicaStatus]:  # noqa: ARG002
        return [self._status]
