"""Artifacts: content that is too large, or too lasting, to travel inside a call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Final, overload

from aegis_client.artifact_content import Content, Given, Landing, Progress
from aegis_client.artifact_forms import (
    Artifact,
    delete_operation,
    download,
    extension,
    get_operation,
    list_operation,
    upload,
)
from aegis_client.core.surface import AsyncApi, SyncApi, stream, unary
from aegis_client.errors import NotFound

ASK_FIRST_BYTES: Final = 256 << 10
"""Content from this size on is sent only if the service does not have it already."""


class ArtifactsSurface:
    list = stream(list_operation)
    describe = unary(get_operation)
    delete = unary(delete_operation)


class Artifacts(ArtifactsSurface, SyncApi):
    """`Client.artifacts`."""

    def put(
        self,
        content: Given,
        *,
        media_type: str = "",
        filename: str = "",
        retention: float | timedelta | None = None,
        holder: str = "",
        progress: Progress | None = None,
        timeout: float | None = None,
    ) -> Artifact:
        """Store content; what the service has already only lives longer, and is not sent again.

        Args:
            content: A path, the content itself as bytes, or a file that is open for reading bytes.
            media_type: For example `image/png`; if empty, the content decides, then the file's name.
            filename: For people; that of *content* if empty.
            retention: How long to keep it, in seconds; None means the service's default.
            holder: 16 random lower-case hex digits, for content that is needed for a while: it stays until
                `delete` with this holder, or longer while others have it.
            progress: Called with bytes done and bytes in all (None when unknown).
            timeout: Longest time for all of it, in seconds; None means an hour.

        Raises:
            UsageError: The content cannot be read.
            InvalidArgument: Reason `ARTIFACT_TOO_LARGE`, `MEDIA_TYPE_MISMATCH` or `RETENTION_TOO_LONG`.
            ResourceExhausted: Reason `ARTIFACT_QUOTA_EXCEEDED` or `TOO_MANY_UPLOADS`.
        """
        with Content.open(content, media_type=media_type, filename=filename) as source:
            source.measure()
            if source.sha256 and (source.size or 0) >= ASK_FIRST_BYTES:
                try:
                    return self.transport.send(extension(source, retention, holder, timeout))
                except NotFound:
                    pass
            return self.transport.send(upload(source, retention, holder, progress, timeout))

    @overload
    def get(self, name: str, to: None = None, *, progress: Progress | None = None) -> bytes: ...
    @overload
    def get(self, name: str, to: Path | str, *, progress: Progress | None = None) -> Path: ...
    def get(
        self, name: str, to: Path | str | None = None, *, progress: Progress | None = None
    ) -> bytes | Path:
        """Return the content, or write it to the file *to* and return its path; it is checked by its digest.

        A download that breaks goes on where it was. One to a file that was stopped goes on the next time:
        until it is complete it lies beside *to* as `NAME.DIGEST.part`. In a folder the file gets the name
        that the artifact has, and replaces none.

        Raises:
            NotFound: Reason `UNKNOWN_ARTIFACT`.
            UsageError: The file cannot be written.
            DataLoss: What came is not what the name says.
        """
        about: Artifact = self.transport.call(get_operation(name))
        with Landing.open(about, to, progress) as landing:
            for piece in self._pieces(about, landing.offset):
                landing.take(piece)
            return landing.finish()

    def stream(self, name: str, *, offset: int = 0) -> Iterator[bytes]:
        """Iterate over the content piece by piece, from *offset* on; it is not checked by its digest.

        Raises:
            NotFound: Reason `UNKNOWN_ARTIFACT`.
        """
        yield from self._pieces(self.transport.call(get_operation(name)), offset)

    def _pieces(self, about: Artifact, offset: int) -> Iterator[bytes]:
        if offset < about.size_bytes:
            yield from self.transport.iterate(download(about, offset))


class AsyncArtifacts(ArtifactsSurface, AsyncApi):
    """`AsyncClient.artifacts`."""

    async def put(
        self,
        content: Given,
        *,
        media_type: str = "",
        filename: str = "",
        retention: float | timedelta | None = None,
        holder: str = "",
        progress: Progress | None = None,
        timeout: float | None = None,  # noqa: ASYNC109  # it is the call's deadline
    ) -> Artifact:
        """Store content; see `Artifacts.put`."""
        with await asyncio.to_thread(
            Content.open, content, media_type=media_type, filename=filename
        ) as source:
            await asyncio.to_thread(source.measure)
            if source.sha256 and (source.size or 0) >= ASK_FIRST_BYTES:
                try:
                    return await self.transport.send(extension(source, retention, holder, timeout))
                except NotFound:
                    pass
            return await self.transport.send(upload(source, retention, holder, progress, timeout))

    @overload
    async def get(self, name: str, to: None = None, *, progress: Progress | None = None) -> bytes: ...
    @overload
    async def get(self, name: str, to: Path | str, *, progress: Progress | None = None) -> Path: ...
    async def get(
        self, name: str, to: Path | str | None = None, *, progress: Progress | None = None
    ) -> bytes | Path:
        """Return the content, or write it to the file *to* and return its path; see `Artifacts.get`."""
        about: Artifact = await self.transport.call(get_operation(name))
        with await asyncio.to_thread(Landing.open, about, to, progress) as landing:
            async for piece in self._pieces(about, landing.offset):
                await asyncio.to_thread(landing.take, piece)
            return await asyncio.to_thread(landing.finish)

    async def stream(self, name: str, *, offset: int = 0) -> AsyncIterator[bytes]:
        """Iterate over the content piece by piece; see `Artifacts.stream`."""
        about: Artifact = await self.transport.call(get_operation(name))
        async for piece in self._pieces(about, offset):
            yield piece

    async def _pieces(self, about: Artifact, offset: int) -> AsyncIterator[bytes]:
        if offset < about.size_bytes:
            async for piece in self.transport.iterate(download(about, offset)):
                yield piece
