"""What can go wrong with bringing, deleting and rolling back model versions."""

from __future__ import annotations

from collections.abc import Iterable

from aegis_common.errors import AegisError, ErrorKind, Scope


class InvalidModelManifest(AegisError):
    """A manifest that a caller has signed is not one that this call may bring."""

    kind = ErrorKind.INVALID_ARGUMENT
    reason = "INVALID_MODEL_MANIFEST"

    @classmethod
    def at(cls, field: str, what: str) -> InvalidModelManifest:
        """Build the error for what is wrong with *field* of the manifest, or with all of it."""
        place = f"manifest.{field}" if field else "manifest"
        return cls(f"{place}: {what}", violations={place: what}, field=field)


class ModelTooLarge(AegisError):
    kind = ErrorKind.FAILED_PRECONDITION
    reason = "MODEL_TOO_LARGE"

    @classmethod
    def of(cls, size: int, limit: int) -> ModelTooLarge:
        return cls(
            f"the model file has {size} bytes; this agent serves at most {limit}",
            size_bytes=str(size),
            max_bytes=str(limit),
        )


class ModelQuotaExceeded(AegisError):
    """The tenant has no room for another model file."""

    kind = ErrorKind.RESOURCE_EXHAUSTED
    reason = "MODEL_QUOTA_EXCEEDED"
    scope = Scope.FLEET

    @classmethod
    def of(cls, *, used: int, size: int, quota: int) -> ModelQuotaExceeded:
        return cls(
            f"the tenant's models have {used} bytes; {size} more are over the quota of {quota}. "
            "Delete versions that are not needed any longer",
            used_bytes=str(used),
            size_bytes=str(size),
            quota_bytes=str(quota),
        )


class ModelVersionDeleted(AegisError):
    """The id of a deleted version is never used again."""

    kind = ErrorKind.FAILED_PRECONDITION
    reason = "MODEL_VERSION_DELETED"

    @classmethod
    def of(cls, model: str, version: str) -> ModelVersionDeleted:
        return cls(
            f"version {version!r} of model {model!r} has been deleted; choose another id",
            model=model,
            version=version,
        )


class ModelVersionInUse(AegisError):
    """Aliases point at the version."""

    kind = ErrorKind.FAILED_PRECONDITION
    reason = "MODEL_VERSION_IN_USE"

    @classmethod
    def by(cls, aliases: Iterable[str], model: str, version: str) -> ModelVersionInUse:
        named = ", ".join(sorted(aliases))
        return cls(
            f"{named} points at version {version!r} of model {model!r}; move or delete the alias first",
            model=model,
            version=version,
            aliases=named,
        )


class UnknownAlias(AegisError):
    kind = ErrorKind.NOT_FOUND
    reason = "UNKNOWN_ALIAS"

    @classmethod
    def of(cls, model: str, alias: str) -> UnknownAlias:
        return cls(f"model {model!r} has no alias {alias!r}", model=model, alias=alias)


class NoEarlierVersion(AegisError):
    """There is nothing that an alias could go back to."""

    kind = ErrorKind.FAILED_PRECONDITION
    reason = "NO_EARLIER_VERSION"

    @classmethod
    def of(cls, model: str, alias: str, version: str) -> NoEarlierVersion:
        return cls(
            f"alias {alias!r} of model {model!r} is at {version!r}, and pointed at no version before that is "
            "still there and trusted; set it to the one that is wanted",
            model=model,
            alias=alias,
            version=version,
        )
