"""Parts: the content that tools take and give."""

from __future__ import annotations

import mimetypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from aegis.agent.v1 import part_pb2 as pb
from aegis_client.core.values import resource, struct, unstruct
from aegis_client.errors import UsageError

MAX_INLINE_BYTES: Final = 8 << 20
"""Most raw bytes that travel inside one call; what is larger goes by an artifact."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One piece of content; exactly one of `text`, `json`, `data` and `artifact` is set.

    Attributes:
        data: Raw bytes, at most 8 MiB in all parts of a call together.
        artifact: `artifacts/{sha256}`, where the content lies; in a result, for what the answer cannot hold.
        name: Parameter that the part fills, or name of the output; may be empty.
        media_type: For example `image/png`; if empty, the tool looks at the content.
        filename: Name of the file that the content came from, for messages only.
    """

    text: str | None = None
    json: Mapping[str, Any] | None = None
    data: bytes | None = None
    artifact: str | None = None
    name: str = ""
    media_type: str = ""
    filename: str = ""

    def __post_init__(self) -> None:
        given = [key for key in ("text", "json", "data", "artifact") if getattr(self, key) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise UsageError(f"a part holds one of text, json, data and artifact, not {found}")

    @property
    def content(self) -> str | dict[str, Any] | bytes:
        """The text, the JSON object, the bytes, or the name of the artifact."""
        if self.json is not None:
            return dict(self.json)
        if self.artifact is not None:
            return self.artifact
        return self.text if self.text is not None else self.data or b""

    @classmethod
    def from_file(cls, path: Path | str, *, name: str = "", media_type: str = "") -> Part:
        """Read a file as raw bytes; the media type is guessed from its name when none is given.

        Raises:
            UsageError: The file cannot be read.
        """
        place = Path(path)
        try:
            data = place.read_bytes()
        except OSError as error:
            raise UsageError(f"file {place} cannot be read: {error.strerror}") from error
        guessed = media_type or mimetypes.guess_type(place.name)[0] or ""
        return cls(data=data, name=name, media_type=guessed, filename=place.name)


def value_of(parts: Sequence[Part]) -> Any:
    """Return the content of the only part; of several, a dict from name (or position) to content."""
    if len(parts) == 1:
        return parts[0].content
    return {part.name or str(index): part.content for index, part in enumerate(parts)}


def to_proto(part: Part) -> pb.Part:
    message = pb.Part(name=part.name, media_type=part.media_type, filename=part.filename)
    if part.json is not None:
        message.json.CopyFrom(struct(part.json))
    elif part.text is not None:
        message.text = part.text
    elif part.artifact is not None:
        message.artifact = resource("artifacts", part.artifact)
    else:
        message.inline_bytes = part.data or b""
    return message


def from_proto(message: pb.Part) -> Part:
    """Return a part that a service sent; one with no content at all is an empty text."""
    kind = message.WhichOneof("content")
    return Part(
        text=message.text if kind in {"text", None} else None,
        json=unstruct(message.json) if kind == "json" else None,
        data=message.inline_bytes if kind == "inline_bytes" else None,
        artifact=message.artifact if kind == "artifact" else None,
        name=message.name,
        media_type=message.media_type,
        filename=message.filename,
    )


def payload_of(
    arguments: Mapping[str, Any], parts: Sequence[Part], files: Mapping[str, Path | str | bytes]
) -> list[pb.Part]:
    """Return what is sent as a tool's input."""
    raw = {key: bytes(value) for key, value in arguments.items() if isinstance(value, bytes | bytearray)}
    plain = {key: value for key, value in arguments.items() if key not in raw}
    made = [Part(json=plain)] if plain else []
    made += [Part(data=value, name=key) for key, value in raw.items()]
    made += [_file(key, given) for key, given in files.items()]
    return [to_proto(part) for part in [*made, *parts]]


def _file(name: str, given: Path | str | bytes) -> Part:
    return Part(data=given, name=name) if isinstance(given, bytes) else Part.from_file(given, name=name)
