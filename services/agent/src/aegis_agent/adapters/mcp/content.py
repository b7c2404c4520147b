"""A tool's schemas and results as MCP has them: JSON as structured content, media as blocks of their own."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

from mcp_types import (
    AudioContent,
    BlobResourceContents,
    ContentBlock,
    EmbeddedResource,
    ImageContent,
    ResourceLink,
    TextContent,
    TextResourceContents,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from aegis_agent.domain.artifacts import NAME
from aegis_agent.domain.call import Artifacts
from aegis_agent.domain.content import shown_media_type
from aegis_agent.domain.errors import ToolOutputTooLarge
from aegis_agent.domain.parts import ArtifactRef
from aegis_agent.domain.schema import holds_content, is_artifact, is_binary
from aegis_agent.domain.tool import JsonSchema

ARTIFACT_URI: Final = "aegis://"
"""`aegis://artifacts/{sha256}` is the resource that an artifact is."""
MAX_MEDIA_BYTES: Final = 4 << 20
"""Largest raw bytes that stand in an answer; larger ones become artifacts."""
_RESULT: Final = "result"


def output_schema(schema: JsonSchema, version: str) -> dict[str, Any] | None:
    """Return the schema of a tool's structured content, or None for one whose result holds media.

    Before 2026-07-28 it had to be an object; other results stand under `result` there.
    """
    if holds_content(schema, schema):
        return None
    if not _wrapped(schema, version):
        return dict(schema)
    inner = {key: value for key, value in schema.items() if key != "$defs"}
    definitions = {"$defs": schema["$defs"]} if "$defs" in schema else {}
    return {"type": "object", "properties": {_RESULT: inner}, "required": [_RESULT], **definitions}


def structured(value: Any, schema: JsonSchema, version: str) -> Any:
    """Return a result as structured content, or None for one that holds media."""
    if holds_content(schema, schema):
        return None
    return {_RESULT: value} if _wrapped(schema, version) else value


def blocks(value: Any) -> list[ContentBlock]:
    """Return a result as content blocks.

    A text is a text and raw bytes are what their media type says. The items of a list are blocks of their own
    if any of them is raw bytes. Bytes inside any other value stand behind its JSON, which names the block.
    """
    if isinstance(value, str):
        return [TextContent(text=value), *_links(value)]
    if isinstance(value, bytes | ArtifactRef):
        return [_media(value)]
    if isinstance(value, list) and any(isinstance(item, bytes | ArtifactRef) for item in value):
        return [block for item in value for block in blocks(item)]
    media: list[ContentBlock] = []
    text = json.dumps(_without_media(value, media), ensure_ascii=False)
    return [TextContent(text=text), *media]


async def kept(value: Any, artifacts: Artifacts | None, *, tool: str) -> Any:
    """Return a result in which raw bytes that are too large for an answer have become artifacts.

    Raises:
        ToolOutputTooLarge: They are too large, and there is no artifact store.
        AegisError: The store does not take them.
    """
    if isinstance(value, bytes) and len(value) > MAX_MEDIA_BYTES:
        if artifacts is None:
            raise ToolOutputTooLarge.of(tool, size_bytes=len(value), max_bytes=MAX_MEDIA_BYTES)
        filename = getattr(value, "filename", "")
        return ArtifactRef(await artifacts.save(value, media_type=shown_media_type(value), filename=filename))
    if isinstance(value, Mapping):
        return {key: await kept(item, artifacts, tool=tool) for key, item in value.items()}
    if isinstance(value, list) and any(isinstance(item, bytes | Mapping | list) for item in value):
        return [await kept(item, artifacts, tool=tool) for item in value]
    return value


def references(arguments: Mapping[str, Any], schema: JsonSchema) -> dict[str, Any]:
    """Return the arguments of a call with the artifacts that they name where raw bytes are wanted."""
    parameters: Mapping[str, Any] = schema.get("properties", {})

    def read(name: str, value: Any) -> Any:
        wanted = parameters.get(name)
        bare = value.removeprefix(ARTIFACT_URI) if isinstance(value, str) else ""
        named = NAME.fullmatch(bare) and (is_binary(wanted, schema) or is_artifact(wanted, schema))
        return ArtifactRef(bare) if named else value

    return {name: read(name, value) for name, value in arguments.items()}


def artifact_uri(name: str) -> str:
    """Return the URI of `artifacts/{sha256}` as an MCP resource."""
    return ARTIFACT_URI + name


def _wrapped(schema: JsonSchema, version: str) -> bool:
    return version not in MODERN_PROTOCOL_VERSIONS and schema.get("type") != "object"


def _media(value: bytes | ArtifactRef) -> ContentBlock:
    if isinstance(value, ArtifactRef):
        return ResourceLink(name=value.name, uri=artifact_uri(value.name))
    media_type = shown_media_type(value)
    if media_type.startswith("image/"):
        return ImageContent(data=_base64(value), mime_type=media_type)
    if media_type.startswith("audio/"):
        return AudioContent(data=_base64(value), mime_type=media_type)
    return EmbeddedResource(resource=_resource(value, media_type))


def _resource(value: bytes, media_type: str) -> TextResourceContents | BlobResourceContents:
    uri = getattr(value, "filename", "") or hashlib.sha256(value).hexdigest()
    uri = f"{ARTIFACT_URI}inline/{uri}"
    if media_type.startswith("text/") or media_type == "application/json":
        try:
            return TextResourceContents(uri=uri, mime_type=media_type, text=value.decode())
        except UnicodeDecodeError:
            pass
    return BlobResourceContents(uri=uri, mime_type=media_type, blob=_base64(value))


def _links(text: str) -> list[ContentBlock]:
    return [_media(ArtifactRef(text))] if NAME.fullmatch(text) else []


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _without_media(value: Any, media: list[ContentBlock]) -> Any:
    if isinstance(value, bytes | ArtifactRef):
        media.append(_media(value))
        return f"content[{len(media)}]"
    if isinstance(value, str):
        media.extend(_links(value))
        return value
    if isinstance(value, Mapping):
        return {key: _without_media(item, media) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_media(item, media) for item in value]
    return value
