"""What can go wrong with a reservation."""

from __future__ import annotations

from aegis_common.errors import AegisError, ErrorKind


class StaleToken(AegisError):
    """Another holder has acted on a later signal, or has made this start."""

    kind = ErrorKind.ABORTED
    reason = "STALE_TOKEN"


class ReservationEnded(AegisError):
    """It has ended: nothing can be done in it any more."""

    kind = ErrorKind.FAILED_PRECONDITION
    reason = "RESERVATION_ENDED"
