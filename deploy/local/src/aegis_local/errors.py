"""What can stop `aegis up` and its companions; each message says how to go on."""

from __future__ import annotations

from aegis_common.errors import AegisError, ErrorKind


class AlreadyRunning(AegisError):
    kind = ErrorKind.ALREADY_EXISTS
    reason = "STACK_ALREADY_RUNNING"


class NotRunning(AegisError):
    kind = ErrorKind.FAILED_PRECONDITION
    reason = "STACK_NOT_RUNNING"


class PortTaken(AegisError):
    kind = ErrorKind.FAILED_PRECONDITION
    reason = "PORT_TAKEN"


class ProgramMissing(AegisError):
    kind = ErrorKind.FAILED_PRECONDITION
    reason = "PROGRAM_MISSING"


class TooFewWatches(AegisError):
    kind = ErrorKind.FAILED_PRECONDITION
    reason = "TOO_FEW_WATCHES"


class PlatformUnsupported(AegisError):
    kind = ErrorKind.FAILED_PRECONDITION
    reason = "PLATFORM_UNSUPPORTED"
