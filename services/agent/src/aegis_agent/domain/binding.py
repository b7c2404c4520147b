"""From a payload to checked arguments: parts are bound to parameters, and artifacts are fetched."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

from aegis_agent.domain import media
from aegis_agent.domain.artifacts import NAME, Artifact, NoArtifactStore
from aegis_agent.domain.call import Arguments, Artifacts
from aegis_agent.domain.content import Content
from aegis_agent.domain.errors import InvalidToolInput, Violation
from aegis_agent.domain.offload import offloaded
from aegis_agent.domain.parts import ArtifactRef, Payload, arguments_of
from aegis_agent.domain.schema import holds_content, is_artifact, is_binary, member, wanted_media_type
from aegis_agent.domain.tool import Tool

Replace = Callable[[str, Any, str], Any]
"""Given an artifact's name, the schema of where it stands, and the path there: what stands there instead."""


async def bound(
    payload: Payload, tool: Tool, artifacts: Artifacts | None, *, loading: AbstractAsyncContextManager[None]
) -> Arguments:
    """Return the tool's arguments, checked, with the content of artifacts where the tool takes raw bytes.

    Where it takes an artifact, a mapping of `name`, `media_type`, `size_bytes` and `filename` stands. What
    the payload names is fetched inside *loading*.

    Raises:
        InvalidToolInput: The payload does not fit the tool, or its artifacts are too large to be loaded.
        UnknownArtifact: The caller's tenant has no artifact of that name.
        NoArtifactStore: The payload names an artifact, and nothing keeps them here.
        StoreUnavailable: The artifact store does not answer.
    """
    arguments = arguments_of(payload, tool.spec)
    fetch = _Fetch(tool, artifacts)
    _walked(arguments, tool.spec.input_schema, fetch.note)
    if not fetch.places:
        return await offloaded(tool.checks.input, arguments)
    async with loading:
        await fetch.load()
    checked = await offloaded(
        tool.checks.input, _walked(arguments, tool.spec.input_schema, fetch.content_or_name)
    )
    return _walked(checked, tool.spec.input_schema, fetch.handle)


class _Fetch:
    """The artifacts of one call."""

    def __init__(self, tool: Tool, artifacts: Artifacts | None) -> None:
        self._tool: Final = tool.spec
        self._artifacts = artifacts
        self._found: dict[str, Artifact] = {}
        self._loaded: dict[str, Content] = {}
        self.places: dict[str, tuple[str, Any]] = {}

    def note(self, name: str, schema: Any, path: str) -> Any:
        self.places[path] = (name, schema)
        return name

    async def load(self) -> None:
        if self._artifacts is None:
            raise NoArtifactStore("this agent keeps no artifacts", tool=self._tool.name)
        for path, (name, schema) in self.places.items():
            if name not in self._found:
                self._found[name] = await self._artifacts.describe(name)
            self._check_kind(path, self._found[name], schema)
        wanted = {name for name, schema in self.places.values() if self._binary(schema)}
        self._check_size(wanted, self._artifacts.max_load_bytes)
        for name in wanted:
            about = self._found[name]
            self._loaded[name] = Content(await self._artifacts.read(name), about.media_type, about.filename)

    def content_or_name(self, name: str, schema: Any, path: str) -> Any:  # noqa: ARG002
        return self._loaded[name] if self._binary(schema) else name

    def handle(self, name: str, schema: Any, path: str) -> Any:  # noqa: ARG002
        about = self._found.get(name)
        if about is None or self._binary(schema):
            return name
        return {
            "name": name,
            "media_type": about.media_type,
            "size_bytes": about.size_bytes,
            "filename": about.filename,
        }

    def _binary(self, schema: Any) -> bool:
        return is_binary(schema, self._tool.input_schema)

    def _check_kind(self, path: str, artifact: Artifact, schema: Any) -> None:
        root = self._tool.input_schema
        if not (is_binary(schema, root) or is_artifact(schema, root)):
            raise self._error(path, "artifact", "the parameter takes neither raw bytes nor an artifact")
        wanted = wanted_media_type(schema, root)
        if wanted and not media.fits(artifact.media_type, wanted):
            fault = f"{artifact.name} is {artifact.media_type}; {wanted} is wanted"
            raise self._error(path, "contentMediaType", fault)

    def _check_size(self, names: set[str], limit: int) -> None:
        size = sum(self._found[name].size_bytes for name in names)
        if size > limit:
            path = next(path for path, (name, _) in self.places.items() if name in names)
            fault = (
                f"the artifacts have {size} bytes together; at most {limit} are loaded into a call. "
                "A tool that takes an artifact reads larger ones itself"
            )
            raise self._error(path, "maxBytes", fault)

    def _error(self, path: str, rule: str, message: str) -> InvalidToolInput:
        return InvalidToolInput.of(self._tool.name, [Violation(path, rule, message)])


def _walked(arguments: Arguments, root: Mapping[str, Any], replace: Replace) -> Arguments:
    known = root.get("properties", {})
    walk = _Walk(root, replace)
    return {name: walk.replaced(value, known.get(name), name) for name, value in arguments.items()}


class _Walk:
    """Replaces every artifact in arguments: a reference, or the name of one where one may stand."""

    def __init__(self, root: Mapping[str, Any], replace: Replace) -> None:
        self._root = root
        self._replace = replace
        self._holding: dict[int, bool] = {}

    def replaced(self, value: Any, schema: Any, path: str) -> Any:
        root = self._root
        if isinstance(value, ArtifactRef):
            return self._replace(value.name, schema, path)
        if isinstance(value, str):
            # No base64 text has this form: its length is not a multiple of 4.
            named = NAME.fullmatch(value) and (is_binary(schema, root) or is_artifact(schema, root))
            return self._replace(value, schema, path) if named else value
        if not isinstance(value, list | dict) or not self._holds(schema):
            return value
        if isinstance(value, list):
            return [
                self.replaced(item, member(schema, root, value, i), f"{path}[{i}]")
                for i, item in enumerate(value)
            ]
        return {
            name: self.replaced(item, member(schema, root, value, name), f"{path}.{name}")
            for name, item in value.items()
        }

    def _holds(self, schema: Any) -> bool:
        found = self._holding.get(id(schema))
        if found is None:
            found = self._holding[id(schema)] = holds_content(schema, self._root)
        return found
