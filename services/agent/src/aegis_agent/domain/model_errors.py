"""What can go wrong with models beyond what can go wrong with tools."""

from __future__ import annotations

from datetime import timedelta

from aegis_agent.domain.model import PRODUCTION, ModelVersion
from aegis_common.errors import AegisError, ErrorKind, Scope
from aegis_common.store.errors import ModelSignatureInvalid


class ModelNotServed(AegisError):
    """No version was named, and no alias says which one answers."""

    kind = ErrorKind.FAILED_PRECONDITION
    reason = "MODEL_NOT_SERVED"

    @classmethod
    def named(cls, name: str) -> ModelNotServed:
        return cls(
            f"no version of model {name!r} answers: set the alias {PRODUCTION!r} to one that can be served, "
            "or name a version",
            model=name,
        )


class ModelUnloaded(AegisError):
    """Somebody has unloaded it."""

    kind = ErrorKind.FAILED_PRECONDITION
    reason = "MODEL_UNLOADED"

    @classmethod
    def named(cls, name: str) -> ModelUnloaded:
        return cls(f"model {name!r} has been unloaded; RepositoryModelLoad brings it back", model=name)


def distrusted(model: str, version: str, key_id: str) -> ModelSignatureInvalid:
    """Return the error for a version that a compromised key signed."""
    return ModelSignatureInvalid(
        f"model {model!r} version {version!r} was signed by key {key_id}, which is compromised; publish the "
        "model again under a new version, signed by another key",
        model=model,
        version=version,
        key_id=key_id,
    )


class ModelMemoryExhausted(AegisError):
    """There is no room for the model beside those that run now."""

    kind = ErrorKind.RESOURCE_EXHAUSTED
    reason = "MODEL_MEMORY_EXHAUSTED"
    scope = Scope.REPLICA

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


class ModelExampleFailed(AegisError):
    """The model does not answer an example of its bundle as the bundle says; it is not served."""

    kind = ErrorKind.FAILED_PRECONDITION
    reason = "MODEL_EXAMPLE_FAILED"

    @classmethod
    def of(cls, version: ModelVersion, example: str, *, field: str, why: str) -> ModelExampleFailed:
        """Build the error of an example that has no answer.

        Args:
            version: What was loaded.
            example: Which of its examples.
            field: Where, beginning with `input` or `output`.
            why: What happened.
        """
        return cls(
            f"model {version.model!r} version {version.version!r}: {example}: {field}: {why}",
            model=version.model,
            version=version.version,
            example=example,
            field=field,
        )

    @classmethod
    def differs(
        cls, version: ModelVersion, example: str, *, field: str, expected: str, got: str, tolerance: float
    ) -> ModelExampleFailed:
        """Build the error of an example that has another answer than the expected one."""
        why = f"expected {expected}, got {got} (tolerance {tolerance:g})"
        error = cls.of(version, example, field=field, why=why)
        error.metadata |= {"expected": expected, "got": got, "tolerance": f"{tolerance:g}"}
        return error


class InvalidInferenceRequest(AegisError):
    """The request breaks the inference protocol, whatever the model."""

    kind = ErrorKind.INVALID_ARGUMENT
    reason = "INVALID_INFERENCE_REQUEST"

    @classmethod
    def at(cls, path: str, what: str) -> InvalidInferenceRequest:
        """Build the error for what is wrong at *path* of the request."""
        return cls(f"{path}: {what}", violations={path: what}, path=path)
