"""The bodies of all requests that a listener holds in memory, together."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from aegis_common.errors import AegisError, ErrorKind, Scope

_RETRY_AFTER: Final = timedelta(seconds=1)


class BodiesFull(AegisError):
    """There is no room for one more body just now."""

    kind = ErrorKind.RESOURCE_EXHAUSTED
    reason = "BODIES_FULL"
    scope = Scope.REPLICA


class Bodies:
    """Counts what bodies take, as they were sent; read and parsed they take some times as much.

    Args:
        max_bytes: Most bytes of all of them.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.held = 0

    def take(self, size: int) -> None:
        """Make room for *size* bytes more.

        Raises:
            BodiesFull: There is none.
        """
        if self.held + size > self._max_bytes:
            raise BodiesFull(
                f"the bodies of all requests have {self._max_bytes} bytes already; try again later",
                retry_after=_RETRY_AFTER,
                max_bytes=str(self._max_bytes),
                scope="replica",
            )
        self.held += size

    def free(self, size: int) -> None:
        """Give back what was taken."""
        self.held -= size
