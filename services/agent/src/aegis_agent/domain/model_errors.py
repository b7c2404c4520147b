"""What can go wrong with models beyond what can go wrong with tools."""

from __future__ import annotations

from datetime import timedelta

from aegis_common.errors import AegisError, ErrorKind


class ModelNotServed(AegisError):
    """No version was named, and no alias says which one answers."""

    kind = ErrorKind.FAILED_PRECONDITION
    reason = "MODEL_NOT_SERVED"


class ModelUnloaded(AegisError):
    """Somebody has unloaded it on this replica."""

    kind = ErrorKind.FAILED_PRECONDITION
    reason = "MODEL_UNLOADED"

    @classmethod
    def named(cls, name: str) -> ModelUnloaded:
        return cls(
            f"model {name!r} has been unloaded in this replica; RepositoryModelLoad brings it back",
            model=name,
        )


class ModelMemoryExhausted(AegisError):
    """There is no room for the model beside those that run now."""

    kind = ErrorKind.RESOURCE_EXHAUSTED
    reason = "MODEL_MEMORY_EXHAUSTED"

    @classmethod
    def of(cls, *, needed: int, limit: int, in_use: int) -> ModelMemoryExhausted:
        return cls(
            f"the model needs {needed} bytes; models may hold {limit} bytes in this replica, and those that "
            f"run now hold {in_use}",
            retry_after=timedelta(seconds=1),
            needed_bytes=str(needed),
            limit_bytes=str(limit),
            in_use_bytes=str(in_use),
        )


class InvalidInferenceRequest(AegisError):
    """The request breaks the inference protocol, whatever the model."""

    kind = ErrorKind.INVALID_ARGUMENT
    reason = "INVALID_INFERENCE_REQUEST"

    @classmethod
    def at(cls, path: str, what: str) -> InvalidInferenceRequest:
        """Build the error for what is wrong at *path* of the request."""
        return cls(f"{path}: {what}", violations={path: what}, path=path)
