"""What a JSON Schema says of a place in a tool's arguments: which kind of content stands there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

ARTIFACT_FORMAT: Final = "aegis-artifact"
"""`format` of a JSON Schema whose value is the name of an artifact."""
_DEPTH: Final = 8

Schema = Mapping[str, Any]


def is_binary(schema: Any, root: Schema) -> bool:
    """Tell whether a JSON Schema describes raw bytes."""
    return any(item.get("contentEncoding") == "base64" for item in _variants(schema, root))


def is_artifact(schema: Any, root: Schema) -> bool:
    """Tell whether a JSON Schema describes the name of an artifact."""
    return any(item.get("format") == ARTIFACT_FORMAT for item in _variants(schema, root))


def is_text(schema: Any, root: Schema) -> bool:
    """Tell whether a JSON Schema describes plain text."""
    return any(
        item.get("type") == "string"
        and "contentEncoding" not in item
        and item.get("format") != ARTIFACT_FORMAT
        for item in _variants(schema, root)
    )


def wanted_media_type(schema: Any, root: Schema) -> str:
    """Return the media type that a JSON Schema of raw bytes asks for, such as `image/*`, or empty."""
    found = (item.get("contentMediaType", "") for item in _variants(schema, root))
    return next((str(item) for item in found if item), "")


def holds_content(schema: Any, root: Schema) -> bool:
    """Tell whether raw bytes or artifacts may stand at or below a place."""
    return _holds(schema, root, lambda *place: is_binary(*place) or is_artifact(*place))


def holds_artifact(schema: Any, root: Schema) -> bool:
    """Tell whether names of artifacts may stand at or below a place."""
    return _holds(schema, root, is_artifact)


def _holds(schema: Any, root: Schema, kind: Callable[[Any, Schema], bool]) -> bool:
    """Look at each schema once: one that refers to itself many times would else take for ever."""
    seen: set[int] = set()
    pending: list[Any] = [schema]
    while pending:
        place = pending.pop()
        if not isinstance(place, Mapping) or id(place) in seen:
            continue
        seen.add(id(place))
        if kind(place, root):
            return True
        for item in _variants(place, root):
            pending += item.get("properties", {}).values()
            pending += item.get("prefixItems", ())
            pending += [item.get("items"), item.get("additionalProperties")]
    return False


def member(schema: Any, root: Schema, container: Any, key: str | int) -> Any:
    """Return the schema of `container[key]`, or None; of several variants, the one for its kind counts."""
    for item in _variants(schema, root):
        if isinstance(container, list) and isinstance(key, int):
            first = item.get("prefixItems", ())
            if key < len(first):
                return first[key]
            if isinstance(item.get("items"), Mapping):
                return item["items"]
        elif isinstance(container, dict):
            if key in item.get("properties", {}):
                return item["properties"][key]
            if isinstance(item.get("additionalProperties"), Mapping):
                return item["additionalProperties"]
    return None


def resolved(schema: Any, root: Schema) -> Schema:
    """Follow a `$ref` into the definitions of *root*."""
    for _ in range(_DEPTH):
        if not isinstance(schema, Mapping):
            return {}
        reference = schema.get("$ref", "")
        if not reference.startswith("#/$defs/"):
            return schema
        schema = root.get("$defs", {}).get(reference.removeprefix("#/$defs/"))
    return {}


def _variants(schema: Any, root: Schema) -> list[Schema]:
    schema = resolved(schema, root)
    return [resolved(item, root) for item in schema.get("anyOf", [schema])]
