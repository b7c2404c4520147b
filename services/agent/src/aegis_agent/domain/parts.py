"""Parts: how the content of a call becomes the tool's arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from aegis_agent.domain.call import Arguments
from aegis_agent.domain.errors import InvalidToolInput, Violation
from aegis_agent.domain.tool import ToolSpec

MAX_INLINE_BYTES: Final = 8 << 20
"""Most raw bytes in all parts of one call together."""


@dataclass(frozen=True, slots=True)
class Part:
    """One piece of content.

    Attributes:
        content: A text, raw bytes, or a JSON object.
        name: Parameter that it fills, or empty.
        media_type: IANA media type, or empty.
        filename: For messages only.
    """

    content: str | bytes | Mapping[str, Any]
    name: str = ""
    media_type: str = ""
    filename: str = ""


Payload = Mapping[str, Any] | Sequence[Part] | str | bytes
"""Arguments by name, a list of parts, or the content of a single part."""


def arguments_of(payload: Payload, spec: ToolSpec) -> Arguments:
    """Return the tool's arguments.

    A part with a name fills that parameter. Without one, a JSON object is merged into the arguments, and a
    text or raw bytes fill the first parameter of their kind that nothing else fills.

    Raises:
        InvalidToolInput: Two parts fill one parameter, none is left for a part, or there are too many bytes.
    """
    if isinstance(payload, Mapping):
        return dict(payload)
    parts = [Part(payload)] if isinstance(payload, str | bytes) else payload
    _check_size(parts, spec)
    binder = _Binder(spec)
    for index, part in enumerate(parts):
        if part.name or isinstance(part.content, Mapping):
            binder.place(index, part)
    for index, part in enumerate(parts):
        if not part.name and not isinstance(part.content, Mapping):
            binder.fill(index, part)
    return binder.arguments


def is_binary(schema: Any, root: Mapping[str, Any]) -> bool:
    """Tell whether a JSON Schema describes raw bytes."""
    return any(item.get("contentEncoding") == "base64" for item in _variants(schema, root))


def is_text(schema: Any, root: Mapping[str, Any]) -> bool:
    """Tell whether a JSON Schema describes plain text."""
    return any(
        item.get("type") == "string" and "contentEncoding" not in item for item in _variants(schema, root)
    )


def resolved(schema: Any, root: Mapping[str, Any]) -> Mapping[str, Any]:
    """Follow a `$ref` into the definitions of *root*."""
    for _ in range(8):
        if not isinstance(schema, Mapping):
            return {}
        reference = schema.get("$ref", "")
        if not reference.startswith("#/$defs/"):
            return schema
        schema = root.get("$defs", {}).get(reference.removeprefix("#/$defs/"))
    return {}


def _variants(schema: Any, root: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    schema = resolved(schema, root)
    return [resolved(item, root) for item in schema.get("anyOf", [schema])]


class _Binder:
    def __init__(self, spec: ToolSpec) -> None:
        self.arguments: Arguments = {}
        self._tool = spec.name
        self._root = spec.input_schema
        self._parameters: Mapping[str, Any] = spec.input_schema.get("properties", {})

    def place(self, index: int, part: Part) -> None:
        content = part.content
        if part.name:
            if isinstance(content, str) and is_binary(self._parameters.get(part.name), self._root):
                content = content.encode()
            self._set(index, part.name, content)
        elif isinstance(content, Mapping):
            for name, value in content.items():
                self._set(index, name, value)

    def fill(self, index: int, part: Part) -> None:
        text = isinstance(part.content, str)
        fits = is_text if text else is_binary
        for name, schema in self._parameters.items():
            if name not in self.arguments and fits(schema, self._root):
                self.arguments[name] = part.content
                return
        kind = "text" if text else "raw bytes"
        raise self._error(
            f"payload[{index}]", "parameter", f"the tool takes no (further) parameter of {kind}"
        )

    def _set(self, index: int, name: str, value: Any) -> None:
        if name in self.arguments:
            raise self._error(
                f"payload[{index}]", "duplicate", f"another part fills parameter {name!r} already"
            )
        self.arguments[name] = value

    def _error(self, path: str, rule: str, message: str) -> InvalidToolInput:
        return InvalidToolInput.of(self._tool, [Violation(path, rule, message)])


def _check_size(parts: Sequence[Part], spec: ToolSpec) -> None:
    size = sum(len(part.content) for part in parts if isinstance(part.content, bytes))
    if size > MAX_INLINE_BYTES:
        message = f"all inline_bytes together are {size} bytes; at most {MAX_INLINE_BYTES}"
        raise InvalidToolInput.of(spec.name, [Violation("payload", "maxBytes", message)])
