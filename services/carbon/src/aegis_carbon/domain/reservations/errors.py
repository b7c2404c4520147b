"""What can go wrong with a reservation."""

from __future__ import annotations

from datetime import timedelta

from aegis_carbon.domain.errors import InfeasibleJob
from aegis_common.errors import AegisError, ErrorKind, Scope


class ReservationsNotConfigured(AegisError):
    kind = ErrorKind.FAILED_PRECONDITION
    reason = "RESERVATIONS_NOT_CONFIGURED"


class ReservationStoreUnavailable(AegisError):
    kind = ErrorKind.UNAVAILABLE
    reason = "RESERVATION_STORE_UNAVAILABLE"

    @classmethod
    def because(cls, cause: str) -> ReservationStoreUnavailable:
        return cls(
            f"the store of reservations does not answer, or takes no writes ({cause}); what was acknowledged "
            "is kept, try again",
            retry_after=timedelta(seconds=1),
            cause=cause,
        )


class UnknownReservation(AegisError):
    kind = ErrorKind.NOT_FOUND
    reason = "UNKNOWN_RESERVATION"

    @classmethod
    def named(cls, reservation_id: str) -> UnknownReservation:
        return cls(
            f"reservation {reservation_id!r} does not exist, or its retention is over",
            reservation=reservation_id,
        )


class UnknownCapacityPool(AegisError):
    kind = ErrorKind.NOT_FOUND
    reason = "UNKNOWN_CAPACITY_POOL"


class RequestIdReused(AegisError):
    kind = ErrorKind.ALREADY_EXISTS
    reason = "REQUEST_ID_REUSED"


class TooManyReservations(AegisError):
    kind = ErrorKind.RESOURCE_EXHAUSTED
    reason = "TOO_MANY_RESERVATIONS"
    scope = Scope.FLEET


class StaleToken(AegisError):
    """Another holder has acted on a later signal, or has made this start."""

    kind = ErrorKind.ABORTED
    reason = "STALE_TOKEN"


class ReservationEnded(AegisError):
    """It has ended: nothing can be done in it any more."""

    kind = ErrorKind.FAILED_PRECONDITION
    reason = "RESERVATION_ENDED"


class ReservationBusy(AegisError):
    """Others change the same pool faster than this change can be made."""

    kind = ErrorKind.UNAVAILABLE
    reason = "RESERVATION_BUSY"


class InvalidResumeToken(AegisError):
    kind = ErrorKind.INVALID_ARGUMENT
    reason = "INVALID_RESUME_TOKEN"


class UnreadableReservation(AegisError):
    """A stored record is damaged, or of a schema version that this process does not know."""

    kind = ErrorKind.INTERNAL
    reason = "UNREADABLE_RESERVATION"


class PoolFull(InfeasibleJob):
    """It cannot end by its deadline beside what its pool has promised; `deadline` is one that can be kept."""
