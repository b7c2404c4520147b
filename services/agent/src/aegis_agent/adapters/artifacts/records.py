"""How artifacts lie in the object store: content, and immutable records whose names hold what lists need.

A tenant's artifact is there while one of its records has not expired. A record is written once and only
removed, so that writers, readers and sweepers in several processes need no locks:

    <tenant>/artifacts/records/<sha256>/<expires>.<created>.<size>.<kind>.<content>[.<holder>]
    <tenant>/artifacts/content/<sha256>/<content>
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Self

from aegis_agent.domain.artifacts import Artifact
from aegis_common.store.objects import object_key
from aegis_common.store.records import read_record

SCHEMA_VERSION: Final = 1
_FIELDS: Final = frozenset(
    {
        "schema_version",
        "sha256",
        "size_bytes",
        "media_type",
        "filename",
        "created_at",
        "expires_at",
        "content",
    }
)
_ENTRY: Final = re.compile(
    r"(?P<expires>\d{10})\.(?P<created>\d{13})\.(?P<size>\d{1,15})\.(?P<kind>[0-9a-f]{12})\.(?P<content>[0-9a-f]{16})"
    r"(?:\.(?P<holder>[0-9a-f]{16}))?"
)


def records_key(tenant: str, sha256: str = "") -> str:
    return object_key(tenant, "artifacts", "records", *([sha256] if sha256 else []))


def content_key(tenant: str, sha256: str = "", content: str = "") -> str:
    return object_key(tenant, "artifacts", "content", *filter(None, (sha256, content)))


def kind_of(media_type: str) -> str:
    """Return 12 hex digits: 4 for the kind, 8 for the media type; for `image/*` the first 4 alone."""
    major, _, minor = media_type.partition("/")
    first = hashlib.sha256(major.encode()).hexdigest()[:4]
    return first if minor == "*" else first + hashlib.sha256(media_type.encode()).hexdigest()[:8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What the name of a record tells.

    Attributes:
        expires: Unix time, in seconds.
        created: Unix time, in milliseconds.
        size: Size of the content, in bytes.
        kind: Of the media type; see `kind_of`.
        content: Which object of that digest holds the content.
        holder: For whom alone it is there; empty for the record that keeps it for everybody.
    """

    sha256: str
    expires: int
    created: int
    size: int
    kind: str
    content: str
    holder: str = ""

    @classmethod
    def of(cls, artifact: Artifact, content: str, holder: str = "") -> Self:
        return cls(
            sha256=artifact.sha256,
            expires=int(artifact.expires_at.timestamp()),
            created=int(artifact.created_at.timestamp() * 1000),
            size=artifact.size_bytes,
            kind=kind_of(artifact.media_type),
            content=content,
            holder=holder,
        )

    @classmethod
    def parse(cls, key: str) -> Self | None:
        """Read the name of a record; None for one that this version does not know."""
        sha256, _, name = key.rpartition("/")
        match = _ENTRY.fullmatch(name)
        if match is None:
            return None
        return cls(
            sha256=sha256.rpartition("/")[2],
            expires=int(match["expires"]),
            created=int(match["created"]),
            size=int(match["size"]),
            kind=match["kind"],
            content=match["content"],
            holder=match["holder"] or "",
        )

    @property
    def name(self) -> str:
        whose = f".{self.holder}" if self.holder else ""
        return f"{self.expires:010d}.{self.created:013d}.{self.size}.{self.kind}.{self.content}{whose}"

    def key(self, tenant: str) -> str:
        return f"{records_key(tenant, self.sha256)}/{self.name}"


def encode(artifact: Artifact, content: str) -> bytes:
    """Return the record of *artifact*, whose content is the object *content*."""
    record = {
        "schema_version": SCHEMA_VERSION,
        "sha256": artifact.sha256,
        "size_bytes": artifact.size_bytes,
        "media_type": artifact.media_type,
        "filename": artifact.filename,
        "created_at": artifact.created_at.isoformat(),
        "expires_at": artifact.expires_at.isoformat(),
        "content": content,
    }
    return json.dumps(record, separators=(",", ":")).encode()


def decode(data: bytes, key: str) -> Artifact:
    """Read a record.

    Raises:
        RecordUnreadable: It is broken, or of a schema version that this reader does not know.
    """
    record = read_record(data, key=key, known={SCHEMA_VERSION}, fields=_FIELDS)
    return Artifact(
        sha256=record["sha256"],
        size_bytes=record["size_bytes"],
        media_type=record["media_type"],
        filename=record["filename"],
        created_at=datetime.fromisoformat(record["created_at"]).astimezone(UTC),
        expires_at=datetime.fromisoformat(record["expires_at"]).astimezone(UTC),
    )
