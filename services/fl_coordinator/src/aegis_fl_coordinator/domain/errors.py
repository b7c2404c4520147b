"""What can go wrong, as callers are told."""

from __future__ import annotations

from aegis_common.errors import AegisError, ErrorKind


class UnknownTrainingRun(AegisError):
    kind = ErrorKind.NOT_FOUND
    reason = "UNKNOWN_TRAINING_RUN"


class UnknownApp(AegisError):
    kind = ErrorKind.NOT_FOUND
    reason = "UNKNOWN_APP"


class AppNotApproved(AegisError):
    kind = ErrorKind.FAILED_PRECONDITION
    reason = "APP_NOT_APPROVED"


class AppChanged(AegisError):
    kind = ErrorKind.FAILED_PRECONDITION
    reason = "APP_CHANGED"


class BrokenApp(AegisError):
    kind = ErrorKind.FAILED_PRECONDITION
    reason = "BROKEN_APP"


class EngineNotEnabled(AegisError):
    kind = ErrorKind.FAILED_PRECONDITION
    reason = "ENGINE_NOT_ENABLED"


class InvalidRunConfig(AegisError):
    kind = ErrorKind.INVALID_ARGUMENT
    reason = "INVALID_RUN_CONFIG"


class RequestIdReused(AegisError):
    kind = ErrorKind.ALREADY_EXISTS
    reason = "REQUEST_ID_REUSED"


class InvalidRunToken(AegisError):
    kind = ErrorKind.PERMISSION_DENIED
    reason = "INVALID_RUN_TOKEN"


class RunEnded(AegisError):
    kind = ErrorKind.FAILED_PRECONDITION
    reason = "RUN_ENDED"


class RunNotPausable(AegisError):
    kind = ErrorKind.FAILED_PRECONDITION
    reason = "RUN_NOT_PAUSABLE"


class RunNotResumable(AegisError):
    kind = ErrorKind.FAILED_PRECONDITION
    reason = "RUN_NOT_RESUMABLE"


class ModelNotKept(AegisError):
    kind = ErrorKind.NOT_FOUND
    reason = "MODEL_NOT_KEPT"


class OffsetOutOfRange(AegisError):
    kind = ErrorKind.INVALID_ARGUMENT
    reason = "OFFSET_OUT_OF_RANGE"


class InvalidResumeToken(AegisError):
    kind = ErrorKind.INVALID_ARGUMENT
    reason = "INVALID_RESUME_TOKEN"


class InvalidPublicKey(AegisError):
    kind = ErrorKind.INVALID_ARGUMENT
    reason = "INVALID_PUBLIC_KEY"


class NodeExists(AegisError):
    kind = ErrorKind.ALREADY_EXISTS
    reason = "NODE_EXISTS"


class UnknownNode(AegisError):
    kind = ErrorKind.NOT_FOUND
    reason = "UNKNOWN_NODE"


class EngineUnavailable(AegisError):
    """Flower does not answer; the call may be made again."""

    kind = ErrorKind.UNAVAILABLE
    reason = "ENGINE_UNAVAILABLE"


class EngineRefused(AegisError):
    """Flower answered with an error; making the same call again does not help."""

    kind = ErrorKind.FAILED_PRECONDITION
    reason = "ENGINE_REFUSED"


class CarbonUnavailable(AegisError):
    """The carbon service gave no answer; work goes on without it."""

    kind = ErrorKind.UNAVAILABLE
    reason = "CARBON_UNAVAILABLE"


class UnknownZone(AegisError):
    kind = ErrorKind.NOT_FOUND
    reason = "UNKNOWN_ZONE"


class RunFailed(AegisError):
    """The run cannot go on; the message becomes its state message."""

    kind = ErrorKind.FAILED_PRECONDITION
    reason = "RUN_FAILED"


class UnknownSchema(AegisError):
    """A stored record is of a schema version that this reader does not know."""

    kind = ErrorKind.FAILED_PRECONDITION
    reason = "UNKNOWN_SCHEMA_VERSION"
