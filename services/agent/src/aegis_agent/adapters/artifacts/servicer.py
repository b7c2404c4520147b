"""aegis.agent.v1.ArtifactService: content in and out, piece by piece."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import grpc.aio
from google.api.httpbody_pb2 import HttpBody
from google.protobuf.timestamp_pb2 import Timestamp

from aegis.agent.v1 import artifact_service_pb2 as pb
from aegis.agent.v1 import artifact_service_pb2_grpc as pb_grpc
from aegis_agent.adapters.artifacts.store import ArtifactFilter, StoredArtifacts
from aegis_agent.adapters.artifacts.upload import Upload
from aegis_agent.domain.artifacts import (
    Artifact,
    ArtifactDigestMismatch,
    OffsetOutOfRange,
    TooManyUploads,
    UploadStalled,
)
from aegis_common.errors import InvalidArgument
from aegis_common.rpc.call import current_call
from aegis_common.store.errors import StoreUnavailable

STALL: Final = timedelta(seconds=60)
"""How long an upload may bring nothing."""
_RETRY_AFTER: Final = timedelta(seconds=5)

Context = grpc.aio.ServicerContext[Any, Any]
Requests = AsyncIterator[pb.UploadArtifactRequest]


class ArtifactServicer(pb_grpc.ArtifactServiceServicer):
    """Translate, and bound what comes in.

    Args:
        store: Where artifacts are.
        stall: How long an upload may bring nothing.
    """

    def __init__(self, store: StoredArtifacts, *, stall: timedelta = STALL) -> None:
        self._store = store
        self._stall = stall
        self._uploads: Counter[str] = Counter()

    async def UploadArtifact(self, request_iterator: Any, context: Context) -> pb.UploadArtifactResponse:
        tenant = _tenant()
        requests: Requests = aiter(request_iterator)
        first = await self._next(requests) or pb.UploadArtifactRequest()
        retention = first.retention.ToTimedelta() if first.HasField("retention") else None
        if first.existing:
            if not first.sha256:
                raise InvalidArgument(
                    "existing is set, and sha256 is empty: which artifact?",
                    violations={"sha256": "is needed with existing"},
                )
            kept = await self._store.extend(tenant, first.sha256, retention=retention, holder=first.holder)
            return pb.UploadArtifactResponse(artifact=_artifact(kept))
        size = first.size_bytes if first.HasField("size_bytes") else None
        self._store.policy.retention_of(retention)
        self._store.policy.check_size(size or 0)
        await self._store.check_room(tenant, size or 0)
        declared = first.media_type or first.content.content_type
        if declared.startswith("multipart/"):
            raise InvalidArgument(
                f"{declared.partition(';')[0]} is an envelope: send the content itself, for example with "
                "curl --data-binary @FILE",
                violations={"media_type": "is an envelope"},
            )
        with self._counted(tenant), self._store.upload(media_type=declared) as upload:
            await self._receive(first, requests, upload, size)
            await upload.finish(sha256=first.sha256, size=size)
            kept = await self._store.keep(
                tenant, upload, filename=first.filename, retention=retention, holder=first.holder
            )
        return pb.UploadArtifactResponse(artifact=_artifact(kept))

    async def DownloadArtifact(
        self, request: pb.DownloadArtifactRequest, context: Context
    ) -> AsyncIterator[pb.DownloadArtifactResponse]:
        tenant, sha256 = _tenant(), _sha256(request.name)
        artifact = await self._store.find(tenant, sha256)
        left = artifact.size_bytes - request.offset
        if left < 0:
            raise OffsetOutOfRange(
                f"offset {request.offset} is beyond the end: {request.name} has {artifact.size_bytes} bytes",
                violations={"offset": f"at most {artifact.size_bytes}"},
                offset=str(request.offset),
                size_bytes=str(artifact.size_bytes),
            )
        left = min(left, request.limit or left)
        kind = artifact.media_type
        if not left:
            yield pb.DownloadArtifactResponse(content=HttpBody(content_type=kind))
            return
        async for piece in self._store.stream(tenant, sha256, offset=request.offset, limit=left):
            left -= len(piece)
            yield pb.DownloadArtifactResponse(content=HttpBody(content_type=kind, data=piece))
            kind = ""
        if left:
            raise StoreUnavailable(f"the object store ended {left} bytes too early", bytes_left=str(left))

    async def GetArtifact(self, request: pb.GetArtifactRequest, context: Context) -> pb.GetArtifactResponse:
        found = await self._store.find(_tenant(), _sha256(request.name))
        return pb.GetArtifactResponse(artifact=_artifact(found))

    async def ListArtifacts(
        self, request: pb.ListArtifactsRequest, context: Context
    ) -> pb.ListArtifactsResponse:
        wanted = ArtifactFilter(
            media_type=request.media_type.lower(),
            created_after=_moment(request.created_after) if request.HasField("created_after") else None,
            created_before=_moment(request.created_before) if request.HasField("created_before") else None,
        )
        found, token = await self._store.page(
            _tenant(), wanted, size=request.page_size, token=request.page_token
        )
        return pb.ListArtifactsResponse(artifacts=map(_artifact, found), next_page_token=token)

    async def DeleteArtifact(
        self, request: pb.DeleteArtifactRequest, context: Context
    ) -> pb.DeleteArtifactResponse:
        await self._store.delete(_tenant(), _sha256(request.name), holder=request.holder)
        return pb.DeleteArtifactResponse()

    async def _receive(
        self, first: pb.UploadArtifactRequest, requests: Requests, upload: Upload, size: int | None
    ) -> None:
        message: pb.UploadArtifactRequest | None = first
        while message is not None:
            await upload.add(message.content.data)
            if size is not None and upload.size > size:
                raise ArtifactDigestMismatch(
                    f"more than {size} bytes came, which is what size_bytes says", said=str(size)
                )
            message = await self._next(requests)

    async def _next(self, requests: Requests) -> pb.UploadArtifactRequest | None:
        try:
            async with asyncio.timeout(self._stall.total_seconds()):
                return await anext(requests, None)
        except TimeoutError as error:
            seconds = f"{self._stall.total_seconds():g}"
            raise UploadStalled(
                f"nothing came for {seconds} s; the upload was dropped", stall_s=seconds
            ) from error

    @contextmanager
    def _counted(self, tenant: str) -> Iterator[None]:
        most = self._store.policy.max_uploads
        if self._uploads.total() >= most or self._uploads[tenant] >= (most + 1) // 2:
            raise TooManyUploads(
                f"too many uploads run at once: an agent takes {most}, half of them from one tenant; "
                "try again later",
                retry_after=_RETRY_AFTER,
                max_uploads=str(most),
            )
        self._uploads[tenant] += 1
        try:
            yield
        finally:
            self._uploads[tenant] -= 1
            self._uploads += Counter()  # forget who has none


def _tenant() -> str:
    return current_call().principal.tenant


def _sha256(name: str) -> str:
    return name.removeprefix("artifacts/")


def _moment(stamp: Timestamp) -> datetime:
    return stamp.ToDatetime(tzinfo=UTC)


def _artifact(artifact: Artifact) -> pb.Artifact:
    message = pb.Artifact(
        name=artifact.name,
        sha256=artifact.sha256,
        size_bytes=artifact.size_bytes,
        media_type=artifact.media_type,
        filename=artifact.filename,
    )
    message.create_time.FromDatetime(artifact.created_at)
    message.expire_time.FromDatetime(artifact.expires_at)
    return message
