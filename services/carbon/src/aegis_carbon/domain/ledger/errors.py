"""What can go wrong with the ledger."""

from __future__ import annotations

from datetime import timedelta

from aegis_common.errors import AegisError, ErrorKind


class LedgerNotConfigured(AegisError):
    kind = ErrorKind.FAILED_PRECONDITION
    reason = "LEDGER_NOT_CONFIGURED"


class LedgerUnavailable(AegisError):
    kind = ErrorKind.UNAVAILABLE
    reason = "LEDGER_UNAVAILABLE"

    @classmethod
    def because(cls, cause: str) -> LedgerUnavailable:
        return cls(
            f"the ledger's store does not answer, or takes no writes ({cause}); what was recorded is kept, "
            "try again",
            retry_after=timedelta(seconds=1),
            cause=cause,
        )


class UsageIdReused(AegisError):
    kind = ErrorKind.ALREADY_EXISTS
    reason = "USAGE_ID_REUSED"


class UnknownUsage(AegisError):
    kind = ErrorKind.NOT_FOUND
    reason = "UNKNOWN_USAGE"


class OtherTenants(AegisError):
    kind = ErrorKind.PERMISSION_DENIED
    reason = "OTHER_TENANTS"


class ReportTooLarge(AegisError):
    kind = ErrorKind.FAILED_PRECONDITION
    reason = "REPORT_TOO_LARGE"


class UnreadableEntry(AegisError):
    """A stored entry is damaged, or of a schema version that this process does not know."""

    kind = ErrorKind.INTERNAL
    reason = "UNREADABLE_ENTRY"
