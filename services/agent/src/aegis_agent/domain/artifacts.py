"""Artifacts: content by its digest, what may be kept for how long, and how calls get at it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from aegis_common.errors import AegisError, ErrorKind, Scope

NAME: Final = re.compile(r"artifacts/([0-9a-f]{64})")
MAX_LOAD_BYTES: Final = 64 << 20
"""Most bytes that the artifacts of one call bring into it, unless the agent is set otherwise."""


class UnknownArtifact(AegisError):
    """There is none, it has expired, or it belongs to somebody else."""

    kind = ErrorKind.NOT_FOUND
    reason = "UNKNOWN_ARTIFACT"

    @classmethod
    def named(cls, name: str) -> UnknownArtifact:
        return cls(f"{name} does not exist; it may have expired", artifact=name)


class ArtifactTooLarge(AegisError):
    kind = ErrorKind.INVALID_ARGUMENT
    reason = "ARTIFACT_TOO_LARGE"


class ArtifactDigestMismatch(AegisError):
    """The content is not what the caller said that it would be."""

    kind = ErrorKind.INVALID_ARGUMENT
    reason = "ARTIFACT_DIGEST_MISMATCH"


class MediaTypeMismatch(AegisError):
    kind = ErrorKind.INVALID_ARGUMENT
    reason = "MEDIA_TYPE_MISMATCH"


class InvalidMediaType(AegisError):
    kind = ErrorKind.INVALID_ARGUMENT
    reason = "INVALID_MEDIA_TYPE"


class RetentionTooLong(AegisError):
    kind = ErrorKind.INVALID_ARGUMENT
    reason = "RETENTION_TOO_LONG"


class OffsetOutOfRange(AegisError):
    kind = ErrorKind.INVALID_ARGUMENT
    reason = "OFFSET_OUT_OF_RANGE"


class ArtifactQuotaExceeded(AegisError):
    kind = ErrorKind.RESOURCE_EXHAUSTED
    reason = "ARTIFACT_QUOTA_EXCEEDED"
    scope = Scope.FLEET


class TooManyUploads(AegisError):
    kind = ErrorKind.RESOURCE_EXHAUSTED
    reason = "TOO_MANY_UPLOADS"
    scope = Scope.REPLICA


class NoUploadSpace(AegisError):
    """The disk on which uploads lie until they are complete is full, or broken."""

    kind = ErrorKind.RESOURCE_EXHAUSTED
    reason = "NO_UPLOAD_SPACE"
    scope = Scope.REPLICA


class UploadStalled(AegisError):
    kind = ErrorKind.DEADLINE_EXCEEDED
    reason = "UPLOAD_STALLED"


class NoArtifactStore(AegisError):
    """This process keeps no artifacts."""

    kind = ErrorKind.FAILED_PRECONDITION
    reason = "NO_ARTIFACT_STORE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """What is known about stored content.

    Attributes:
        sha256: 64 lower-case hex digits.
        media_type: Never empty.
        filename: For people; may be empty.
        created_at: When it was stored first.
        expires_at: From then on it does not exist.
    """

    sha256: str
    size_bytes: int
    media_type: str
    filename: str
    created_at: datetime
    expires_at: datetime

    @property
    def name(self) -> str:
        return f"artifacts/{self.sha256}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactPolicy:
    """What may be kept.

    Attributes:
        max_bytes: Largest artifact.
        quota_bytes: Most bytes of one tenant in all artifacts together.
        retention: How long one is kept if nobody says.
        max_retention: Longest that anybody may say.
        max_uploads: Most uploads at once in this process; one tenant gets at most half of them.
    """

    max_bytes: int = 1 << 30
    quota_bytes: int = 10 << 30
    retention: timedelta = timedelta(days=7)
    max_retention: timedelta = timedelta(days=30)
    max_uploads: int = 16

    def check_size(self, size: int) -> None:
        """Refuse content of more than `max_bytes`.

        Raises:
            ArtifactTooLarge: It is.
        """
        if size > self.max_bytes:
            raise ArtifactTooLarge(
                f"the content has {size} bytes or more; an artifact has at most {self.max_bytes}",
                size_bytes=str(size),
                max_bytes=str(self.max_bytes),
            )

    def retention_of(self, wanted: timedelta | None) -> timedelta:
        """Return how long to keep something.

        Raises:
            RetentionTooLong: *wanted* is beyond the maximum.
        """
        if wanted is None:
            return min(self.retention, self.max_retention)
        if wanted > self.max_retention:
            said, most = (f"{value.total_seconds():.15g}" for value in (wanted, self.max_retention))
            raise RetentionTooLong(
                f"retention of {said} s is too long; at most {most} s", retention_s=said, max_retention_s=most
            )
        return wanted
