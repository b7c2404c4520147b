"""Content as tools take and give it: images, audio, video and other raw bytes, and artifacts.

    def thumbnail(photo: Image) -> Image:
        return Image(shrunk(photo.data), "image/png")

A parameter of these types takes a part of that media type; a wrong one is refused before the tool runs. A
subclass asks for less: `class Png(Image): wanted = "image/png"`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Self

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import PydanticCustomError, SchemaSerializer, core_schema

from aegis_agent.domain import media
from aegis_agent.domain.content import Content, fault_of, shown_media_type
from aegis_agent.domain.schema import ARTIFACT_FORMAT

ARTIFACT_PATTERN: Final = "^artifacts/[0-9a-f]{64}$"


@dataclass(frozen=True, slots=True)
class Blob:
    """Raw bytes of any kind.

    Attributes:
        data: The content.
        media_type: IANA media type; if empty, the one that the first bytes show, else
            `application/octet-stream`.
        filename: Name of the file that it came from, or empty.

    Raises:
        TypeError: *data* is not bytes.
        ValueError: The content is of another kind.
    """

    data: bytes = field(repr=False)
    media_type: str = ""
    filename: str = ""

    wanted: ClassVar[str] = "*/*"

    def __post_init__(self) -> None:
        if not isinstance(self.data, bytes | bytearray | memoryview):
            raise TypeError(f"{type(self).__name__}.data is bytes, not {type(self.data).__name__}")
        declared = media.normal(self.media_type)
        if declared and not media.MEDIA_TYPE.fullmatch(declared):
            raise ValueError(f"{type(self).__name__}: {declared[:100]!r} is no media type")
        content = Content(bytes(self.data), self.media_type, self.filename)
        fault = fault_of(content, self.wanted)
        if fault:
            raise ValueError(f"{type(self).__name__}: {fault}")
        object.__setattr__(self, "data", bytes(content))
        object.__setattr__(self, "media_type", shown_media_type(content))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> Any:
        return core_schema.no_info_plain_validator_function(
            cls._taken,
            serialization=core_schema.plain_serializer_function_ser_schema(_given),
            json_schema_input_schema=core_schema.bytes_schema(),
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "string", "contentEncoding": "base64", "contentMediaType": cls.wanted}

    @classmethod
    def _taken(cls, value: Any) -> Self:
        if isinstance(value, cls):
            return value
        if not isinstance(value, bytes):
            text = "raw bytes are wanted, not {came}"
            raise PydanticCustomError("bytes_type", text, {"came": type(value).__name__})
        try:
            return cls(value, getattr(value, "media_type", ""), getattr(value, "filename", ""))
        except ValueError as error:
            fault = str(error).partition(": ")[2]
            raise PydanticCustomError("contentMediaType", "{fault}", {"fault": fault}) from error


class Image(Blob):
    """An image, for example `image/png`."""

    __slots__ = ()
    wanted = "image/*"


class Audio(Blob):
    """Sound, for example `audio/wav`."""

    __slots__ = ()
    wanted = "audio/*"


class Video(Blob):
    """A film, for example `video/mp4`."""

    __slots__ = ()
    wanted = "video/*"


@dataclass(frozen=True, slots=True)
class Artifact:
    """Stored content that is not loaded yet: `context.read_artifact(artifact.name)` returns it.

    A result of this type names an artifact that the tool saved: `Artifact(context.save_artifact(data))`. A
    subclass may ask for a media type, or a kind, by its `wanted`, as those of `Blob` do.

    Attributes:
        name: `artifacts/{sha256}`.
        size_bytes: 0 for one that the tool named itself.
    """

    name: str
    media_type: str = ""
    size_bytes: int = 0
    filename: str = ""

    wanted: ClassVar[str] = ""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> Any:
        return core_schema.no_info_plain_validator_function(
            cls._taken, serialization=core_schema.plain_serializer_function_ser_schema(_name)
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        named = {"type": "string", "format": ARTIFACT_FORMAT, "pattern": ARTIFACT_PATTERN}
        return named | ({"contentMediaType": cls.wanted} if cls.wanted else {})

    @classmethod
    def _taken(cls, value: Any) -> Self:
        if isinstance(value, cls):
            return value
        if isinstance(value, str):
            return cls(value)
        if isinstance(value, Mapping) and isinstance(value.get("name"), str):
            return cls(**value)
        raise PydanticCustomError("artifact", "an artifact is wanted: artifacts/ and its SHA-256")


def _given(value: Blob) -> Content:
    return Content(value.data, value.media_type, value.filename)


def _name(value: Artifact) -> str:
    return value.name


def _serializer(give: Callable[[Any], Any]) -> SchemaSerializer:
    """Return what makes pydantic give the same form where a type hint does not name the type."""
    schema = core_schema.any_schema(serialization=core_schema.plain_serializer_function_ser_schema(give))
    return SchemaSerializer(schema)


Blob.__pydantic_serializer__ = _serializer(_given)  # type: ignore[attr-defined]
Artifact.__pydantic_serializer__ = _serializer(_name)  # type: ignore[attr-defined]
