"""What can go wrong with stored objects, models and aliases."""

from __future__ import annotations

from typing import Final

from aegis_common.errors import AegisError, ErrorKind

_MAX_TOLD: Final = 500


class StoreUnavailable(AegisError):
    """The object store does not answer, or refuses this service's credentials."""

    kind = ErrorKind.UNAVAILABLE
    reason = "STORE_UNAVAILABLE"


class ObjectNotFound(AegisError):
    kind = ErrorKind.NOT_FOUND
    reason = "OBJECT_NOT_FOUND"


class ObjectTooLarge(AegisError):
    kind = ErrorKind.FAILED_PRECONDITION
    reason = "OBJECT_TOO_LARGE"


class InvalidObjectKey(AegisError):
    kind = ErrorKind.INVALID_ARGUMENT
    reason = "INVALID_OBJECT_KEY"


class RecordUnreadable(AegisError):
    """A stored record is broken, or of a schema version that this reader does not know."""

    kind = ErrorKind.FAILED_PRECONDITION
    reason = "RECORD_UNREADABLE"


class RecordSignatureInvalid(AegisError):
    """A stored record was not signed by whom it should have been, or for another place."""

    kind = ErrorKind.FAILED_PRECONDITION
    reason = "RECORD_SIGNATURE_INVALID"


class InvalidProvenance(AegisError):
    kind = ErrorKind.INVALID_ARGUMENT
    reason = "INVALID_PROVENANCE"


class ModelVersionNotInStore(AegisError):
    kind = ErrorKind.NOT_FOUND
    reason = "MODEL_VERSION_NOT_IN_STORE"


class ModelVersionExists(AegisError):
    """A version is immutable: the store holds other bytes under the same id."""

    kind = ErrorKind.ALREADY_EXISTS
    reason = "MODEL_VERSION_EXISTS"


class ModelSignatureInvalid(AegisError):
    kind = ErrorKind.FAILED_PRECONDITION
    reason = "MODEL_SIGNATURE_INVALID"


class ModelDigestMismatch(AegisError):
    kind = ErrorKind.FAILED_PRECONDITION
    reason = "MODEL_DIGEST_MISMATCH"


class AliasConflict(AegisError):
    """Somebody else moved the alias to another version at the same moment."""

    kind = ErrorKind.ABORTED
    reason = "ALIAS_CONFLICT"


class InvalidModelBundle(AegisError):
    """A model bundle, or a folder that should become one, is not as it has to be."""

    kind = ErrorKind.INVALID_ARGUMENT
    reason = "INVALID_MODEL_BUNDLE"

    @classmethod
    def at(cls, file: str, what: str, *, field: str = "") -> InvalidModelBundle:
        """Build the error for what is wrong in *file* of the bundle, at *field* where the file has fields."""
        what, field = what[:_MAX_TOLD], field[:_MAX_TOLD]
        place = f"{file}: {field}" if field else file
        return cls(f"model bundle: {place}: {what}", violations={place: what}, file=file, field=field)
