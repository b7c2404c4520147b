"""How calls of ArtifactService look."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from google.api.httpbody_pb2 import HttpBody
from google.protobuf.timestamp_pb2 import Timestamp

from aegis.agent.v1 import artifact_service_pb2 as pb
from aegis_client.artifact_content import Content, Progress
from aegis_client.core.operation import Listing, Operation, Page, Step, Upload, Watch, method
from aegis_client.core.values import duration, moment, resource
from aegis_client.errors import UsageError

UPLOAD: Final = method(pb, "ArtifactService", "UploadArtifact", pb.UploadArtifactResponse)
DOWNLOAD: Final = method(pb, "ArtifactService", "DownloadArtifact", pb.DownloadArtifactResponse)
GET: Final = method(pb, "ArtifactService", "GetArtifact", pb.GetArtifactResponse)
LIST: Final = method(pb, "ArtifactService", "ListArtifacts", pb.ListArtifactsResponse)
DELETE: Final = method(pb, "ArtifactService", "DeleteArtifact", pb.DeleteArtifactResponse)


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """Stored content and what is known about it.

    Attributes:
        name: `artifacts/{sha256}`.
        sha256: Of the content, 64 lower-case hex digits.
        filename: Name of the file that it came from, or empty.
        create_time: When it was stored first.
        expire_time: From then on it does not exist.
    """

    name: str
    sha256: str
    size_bytes: int
    media_type: str
    filename: str
    create_time: datetime | None
    expire_time: datetime | None


def list_operation(
    *,
    media_type: str = "",
    created_after: datetime | None = None,
    created_before: datetime | None = None,
    page_size: int = 0,
) -> Listing[Artifact]:
    """Iterate over the caller's artifacts, newest first.

    Args:
        media_type: Only those of it, or of a whole kind such as `image/*`; empty for all.
        created_after: Only those stored then or later; with a time zone.
        created_before: Only those stored earlier; with a time zone.
        page_size: How many are fetched at once, up to 1000; 0 means 100.
    """
    after, before = _stamp(created_after, "created_after"), _stamp(created_before, "created_before")

    def fetch(token: str) -> Operation[Page[Artifact]]:
        request = pb.ListArtifactsRequest(
            media_type=media_type,
            created_after=after,
            created_before=before,
            page_size=page_size,
            page_token=token,
        )
        return Operation(LIST, request, _read_page)

    return Listing(fetch)


def get_operation(name: str, *, timeout: float | None = None) -> Operation[Artifact]:
    """Return what is known about an artifact; `artifacts/` and the digest, or the digest alone.

    Raises:
        NotFound: Reason `UNKNOWN_ARTIFACT`.
    """
    request = pb.GetArtifactRequest(name=resource("artifacts", name))
    return Operation(GET, request, lambda answer: read_artifact(answer.artifact), timeout)


def delete_operation(name: str, *, holder: str = "", timeout: float | None = None) -> Operation[None]:
    """Delete an artifact before its time.

    Args:
        name: `artifacts/SHA256`, or the SHA-256 alone.
        holder: What `put` was given: this holder lets go, and whoever else stored the same content keeps it.
        timeout: Deadline, in seconds.

    Raises:
        NotFound: Reason `UNKNOWN_ARTIFACT`.
    """
    request = pb.DeleteArtifactRequest(name=resource("artifacts", name), holder=holder)
    return Operation(DELETE, request, lambda _: None, timeout)


def extension(
    source: Content, retention: float | timedelta | None, holder: str, timeout: float | None
) -> Upload[Artifact]:
    """Return the upload that sends nothing; `UNKNOWN_ARTIFACT` says that the content is not there."""
    first = pb.UploadArtifactRequest(
        sha256=source.sha256, existing=True, retention=duration(retention), holder=holder
    )
    return Upload(UPLOAD, lambda: iter([first]), _read_upload, timeout)


def upload(
    source: Content,
    retention: float | timedelta | None,
    holder: str,
    progress: Progress | None,
    timeout: float | None,
) -> Upload[Artifact]:
    first = pb.UploadArtifactRequest(
        media_type=source.media_type,
        filename=source.filename,
        retention=duration(retention),
        sha256=source.sha256,
        size_bytes=source.size,
        holder=holder,
    )

    def requests() -> Iterator[pb.UploadArtifactRequest]:
        yield first
        done = 0
        for piece in source.pieces():
            yield pb.UploadArtifactRequest(content=HttpBody(data=piece))
            done += len(piece)
            if progress:
                progress(done, source.size)

    return Upload(UPLOAD, requests, _read_upload, timeout, repeatable=source.repeatable)


def download(about: Artifact, offset: int) -> Watch[bytes]:
    """Return the rest of an artifact from *offset* on; a break is made up for from where it was."""
    state = {"offset": offset}

    def request(resume_token: str) -> pb.DownloadArtifactRequest:
        return pb.DownloadArtifactRequest(name=about.name, offset=int(resume_token))

    def read(message: pb.DownloadArtifactResponse) -> Step[bytes]:
        data = message.content.data
        state["offset"] += len(data)
        # an empty piece is all that content has which is shorter than it should be
        last = not data or state["offset"] >= about.size_bytes
        return Step(event=data, resume_token=str(state["offset"]), last=last)

    return Watch(DOWNLOAD, request, read, resume_token=str(offset))


def read_artifact(message: pb.Artifact) -> Artifact:
    return Artifact(
        name=message.name,
        sha256=message.sha256,
        size_bytes=message.size_bytes,
        media_type=message.media_type,
        filename=message.filename,
        create_time=moment(message, "create_time"),
        expire_time=moment(message, "expire_time"),
    )


def _read_upload(answer: pb.UploadArtifactResponse) -> Artifact:
    return read_artifact(answer.artifact)


def _read_page(answer: pb.ListArtifactsResponse) -> Page[Artifact]:
    return Page([read_artifact(item) for item in answer.artifacts], answer.next_page_token)


def _stamp(value: datetime | None, parameter: str) -> Timestamp | None:
    if value is None:
        return None
    if value.tzinfo is None:
        raise UsageError(f"{parameter} {value} has no time zone")
    stamp = Timestamp()
    stamp.FromDatetime(value)
    return stamp
