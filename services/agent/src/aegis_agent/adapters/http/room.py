"""What a listener's requests and answers hold in memory, together, and how tenants share it."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Final, Self

from aegis_common.errors import AegisError, ErrorKind, Scope

FREE_TIMES: Final = 3
"""A tenant may hold so many times what is left: three quarters when it is alone, two of them three sevenths
each, and so on. However many hold all that they may, there is room for one more."""
_RETRY_AFTER: Final = timedelta(seconds=1)


class RoomTaken(AegisError):
    """There is no room for more of a tenant just now."""

    kind = ErrorKind.RESOURCE_EXHAUSTED
    scope = Scope.REPLICA


class BodiesFull(RoomTaken):
    reason = "BODIES_FULL"


class ResponsesFull(RoomTaken):
    reason = "RESPONSES_FULL"


class ResponseLost(AegisError):
    """The call has been served, and there is no room for what it answers."""

    kind = ErrorKind.FAILED_PRECONDITION
    reason = "RESPONSE_LOST"
    scope = Scope.REPLICA

    @classmethod
    def of(cls, size: int) -> Self:
        return cls(
            f"the call was served, but its response of {size} bytes was dropped: your tenant has not read so "
            "much of other responses that there is no room for it; read those, and ask for less at once",
            size_bytes=str(size),
        )


class Room:
    """Counts bytes as they travel; what is read and parsed takes some times as much.

    Args:
        max_bytes: Most bytes of all tenants.
        what: What is counted, in words.
        taken: The error when there is no room.
    """

    def __init__(self, max_bytes: int, what: str, taken: type[RoomTaken]) -> None:
        self._max_bytes = max_bytes
        self._what = what
        self._taken = taken
        self._held: Counter[str] = Counter()
        self.held = 0

    def take(self, tenant: str, size: int) -> None:
        """Make room for *size* bytes more.

        Args:
            tenant: Whose they are; empty for those of nobody who is known yet.
            size: How many.

        Raises:
            RoomTaken: There is none.
        """
        own, free = self._held[tenant] + size, self._max_bytes - self.held - size
        if free < 0 or own > FREE_TIMES * free:
            raise self._taken(
                f"{self._what} may have {self._max_bytes} bytes, which all tenants share; yours has "
                f"{own - size} of them, and gets no more just now",
                retry_after=_RETRY_AFTER,
                tenant_bytes=str(own - size),
                size_bytes=str(size),
                max_bytes=str(self._max_bytes),
            )
        self._held[tenant] = own
        self.held += size

    def free(self, tenant: str, size: int) -> None:
        """Give back what was taken."""
        self.held -= size
        self._held[tenant] -= size
        if not self._held[tenant]:
            del self._held[tenant]


class Share:
    """What one request holds of a room."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._tenant = ""
        self.size = 0

    def take(self, tenant: str, size: int) -> None:
        """Take more, always for the same tenant; arguments and errors as of `Room.take`."""
        self._room.take(tenant, size)
        self._tenant = tenant
        self.size += size

    def free(self, size: int) -> None:
        """Give some of it back."""
        self._room.free(self._tenant, size)
        self.size -= size

    def close(self) -> None:
        """Give all of it back."""
        self.free(self.size)
