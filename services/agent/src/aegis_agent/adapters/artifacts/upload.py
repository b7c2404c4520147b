"""Content on its way in: counted, digested and looked at while it comes, and never whole in memory."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import IO, Final, Self

from aegis_agent.domain import media
from aegis_agent.domain.artifacts import (
    ArtifactDigestMismatch,
    ArtifactPolicy,
    InvalidMediaType,
    MediaTypeMismatch,
    NoUploadSpace,
)

_BATCH_BYTES: Final = 1 << 20
_RETRY_AFTER: Final = timedelta(seconds=30)
_log: Final = logging.getLogger(__name__)


class Upload:
    """One piece of content that is being received; use it in a `with` block.

    The bytes go to a file without a name: it is gone when this process is, however that ends.

    Attributes:
        file: The content, once `finish` has returned.
        size: Bytes so far.
        sha256: Of the content, once `finish` has returned.
        media_type: What it is, once `finish` has returned.

    Args:
        policy: How large it may be.
        media_type: What the sender says that it is, or empty.
        folder: Where the file goes; None means the system's temporary folder.

    Raises:
        InvalidMediaType: *media_type* is none.
        NoUploadSpace: There is no room for the file.
    """

    def __init__(self, policy: ArtifactPolicy, *, media_type: str = "", folder: Path | None = None) -> None:
        self._policy = policy
        self._declared = _checked(media_type)
        self._digest = hashlib.sha256()
        self._head = b""
        self._checked = False
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self.file: Final[IO[bytes]] = _nameless(folder)
        self.size = 0
        self.sha256 = ""
        self.media_type = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    async def add(self, data: bytes) -> None:
        """Take the next bytes.

        Raises:
            ArtifactTooLarge: There are too many by now.
            MediaTypeMismatch: They are of another kind than the sender said.
            NoUploadSpace: The disk is full.
        """
        if not data:  # any number of nothings must take no memory
            return
        self.size += len(data)
        self._policy.check_size(self.size)
        if len(self._head) < media.HEAD_BYTES:
            self._head += data[: media.HEAD_BYTES - len(self._head)]
            if len(self._head) == media.HEAD_BYTES:
                self._check_media_type()
        self._waiting.append(data)
        self._waiting_bytes += len(data)
        if self._waiting_bytes >= _BATCH_BYTES:
            await self._write()

    async def finish(self, *, sha256: str = "", size: int | None = None) -> None:
        """Take the end.

        Args:
            sha256: What the digest has to be; empty for whatever it is.
            size: What the size has to be; None for whatever it is.

        Raises:
            ArtifactDigestMismatch: Digest or size are others.
            MediaTypeMismatch: The content is of another kind than the sender said.
        """
        if size is not None and size != self.size:
            raise ArtifactDigestMismatch(
                f"{self.size} bytes came; size_bytes says {size}", size_bytes=str(self.size), said=str(size)
            )
        self._check_media_type()
        await self._write()
        self.sha256 = self._digest.hexdigest()
        if sha256 and sha256 != self.sha256:
            raise ArtifactDigestMismatch(
                f"the content has SHA-256 {self.sha256}; sha256 says {sha256}",
                sha256=self.sha256,
                said=sha256,
            )
        self.media_type = media.known_as(self._declared, self._head)

    def _check_media_type(self) -> None:
        if self._checked:
            return
        self._checked = True
        detected = media.detect(self._head)
        if media.contradicts(self._declared, detected):
            shown = f"is {detected}" if detected else "does not look like that"
            raise MediaTypeMismatch(
                f"the content was sent as {self._declared}, and {shown}; send it as what it is, or as "
                f"{media.UNKNOWN}",
                declared=self._declared,
                detected=detected,
            )

    async def _write(self) -> None:
        waiting, self._waiting, self._waiting_bytes = self._waiting, [], 0
        if waiting:
            await asyncio.to_thread(self._write_now, b"".join(waiting))

    def _write_now(self, data: bytes) -> None:
        self._digest.update(data)
        try:
            self.file.write(data)
            self.file.flush()
        except OSError as error:
            raise _no_space(error) from error


def _checked(media_type: str) -> str:
    declared = media.normal(media_type)
    if declared and not media.MEDIA_TYPE.fullmatch(declared):
        raise InvalidMediaType(
            f"{declared[:127]!r} is no media type; write one such as image/png", media_type=declared[:127]
        )
    return declared


def _nameless(folder: Path | None) -> IO[bytes]:
    try:
        return tempfile.TemporaryFile(dir=folder, prefix="aegis-upload-")
    except OSError as error:
        raise _no_space(error) from error


def _no_space(error: OSError) -> NoUploadSpace:
    _log.error("an upload cannot be written to disk", extra={"error": str(error)})
    return NoUploadSpace("the agent has no room for uploads just now", retry_after=_RETRY_AFTER)
