"""Parts: how the content of a call becomes the tool's arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from aegis_agent.domain import media
from aegis_agent.domain.artifacts import NAME as ARTIFACT_NAME
from aegis_agent.domain.call import Arguments
from aegis_agent.domain.content import Content, fault_of
from aegis_agent.domain.errors import InvalidToolInput, Violation
from aegis_agent.domain.schema import is_artifact, is_binary, is_text, wanted_media_type
from aegis_agent.domain.tool import ToolSpec

MAX_INLINE_BYTES: Final = 8 << 20
"""Most raw bytes in all parts of one call together."""


@dataclass(frozen=True, slots=True)
class ArtifactRef:
    """Content that lies in an artifact, `artifacts/{sha256}`, of the caller's tenant."""

    name: str


@dataclass(frozen=True, slots=True)
class Part:
    """One piece of content.

    Attributes:
        content: A text, raw bytes, a JSON object, or the name of an artifact.
        name: Parameter that it fills, or empty.
        media_type: IANA media type, or empty.
        filename: For messages only.
    """

    content: str | bytes | Mapping[str, Any] | ArtifactRef
    name: str = ""
    media_type: str = ""
    filename: str = ""


Payload = Mapping[str, Any] | Sequence[Part] | str | bytes
"""Arguments by name, a list of parts, or the content of a single part."""


def artifact_names(parts: Iterable[Part]) -> set[str]:
    """Return the artifacts that parts are or name, at any depth."""
    names: set[str] = set()
    pending: list[Any] = [part.content for part in parts]
    while pending:
        item = pending.pop()
        if isinstance(item, ArtifactRef):
            names.add(item.name)
        elif isinstance(item, str) and ARTIFACT_NAME.fullmatch(item):
            names.add(item)
        elif isinstance(item, Mapping):
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)
    return names


def arguments_of(payload: Payload, spec: ToolSpec) -> Arguments:
    """Return the tool's arguments.

    A part with a name fills that parameter. Without one, a JSON object is merged into the arguments, and a
    text or raw bytes fill the first parameter of their kind that nothing else fills; raw bytes go to one that
    wants their media type. Artifacts stand in the arguments as `ArtifactRef`.

    Raises:
        InvalidToolInput: Two parts fill one parameter, none is left for a part, there are too many bytes, or
            it is something else.
    """
    if isinstance(payload, Mapping):
        return dict(payload)
    parts: Any = [Part(payload)] if isinstance(payload, str | bytes) else payload
    if not (isinstance(parts, Sequence) and all(isinstance(part, Part) for part in parts)):
        message = f"is {payload!r:.80}; give arguments by name, a text, bytes, or a list of Part"
        raise InvalidToolInput.of(spec.name, [Violation("payload", "type", message)])
    _check_size(parts, spec)
    binder = _Binder(spec)
    for index, part in enumerate(parts):
        if part.name or isinstance(part.content, Mapping):
            binder.place(index, part)
    for index, part in enumerate(parts):
        if not part.name and not isinstance(part.content, Mapping):
            binder.fill(index, part)
    return binder.arguments


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
            self._set(index, part.name, _described(content, part))
        elif isinstance(content, Mapping):
            for name, value in content.items():
                self._set(index, name, value)

    def fill(self, index: int, part: Part) -> None:
        content = _described(part.content, part)
        open_ones = [name for name in self._parameters if name not in self.arguments]
        if isinstance(content, str):
            fitting, kind = [name for name in open_ones if self._is(is_text, name)], "text"
        else:
            fitting, kind = [name for name in open_ones if self._is(is_binary, name)], "raw bytes"
            if isinstance(content, ArtifactRef):
                fitting += [name for name in open_ones if self._is(is_artifact, name)]
        faults = {name: self._fault(name, content, part) for name in fitting}
        chosen = next((name for name, fault in faults.items() if not fault), None)
        if chosen is not None:
            self.arguments[chosen] = content
            return
        message = next(iter(faults.values()), f"the tool takes no (further) parameter of {kind}")
        rule = "contentMediaType" if faults else "parameter"
        raise self._error(f"payload[{index}]", rule, message)

    def _is(self, kind: Callable[[Any, Mapping[str, Any]], bool], name: str) -> bool:
        return kind(self._parameters[name], self._root)

    def _fault(self, name: str, content: Any, part: Part) -> str:
        """Return why *content* is not what the parameter wants, or empty; an artifact is checked later."""
        wanted = wanted_media_type(self._parameters[name], self._root)
        if not wanted or isinstance(content, str):
            return ""
        if isinstance(content, bytes):
            return fault_of(content, wanted)
        said = media.normal(part.media_type)
        return "" if not said or media.fits(said, wanted) else f"{said} was sent; {wanted} is wanted"

    def _set(self, index: int, name: str, value: Any) -> None:
        if name in self.arguments:
            raise self._error(
                f"payload[{index}]", "duplicate", f"another part fills parameter {name!r} already"
            )
        self.arguments[name] = value

    def _error(self, path: str, rule: str, message: str) -> InvalidToolInput:
        return InvalidToolInput.of(self._tool, [Violation(path, rule, message)])


def _described(content: Any, part: Part) -> Any:
    if isinstance(content, bytes) and (part.media_type or part.filename):
        return Content(content, part.media_type, part.filename)
    return content


def _check_size(parts: Sequence[Part], spec: ToolSpec) -> None:
    size = sum(len(part.content) for part in parts if isinstance(part.content, bytes))
    if size > MAX_INLINE_BYTES:
        message = f"all inline_bytes together are {size} bytes; at most {MAX_INLINE_BYTES}"
        raise InvalidToolInput.of(spec.name, [Violation("payload", "maxBytes", message)])
