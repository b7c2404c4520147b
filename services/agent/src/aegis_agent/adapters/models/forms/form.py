"""The form of a model's tool: how arguments become runs of the model, and its outputs an answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from aegis_agent.domain.call import Arguments
from aegis_agent.domain.inference import Tensors
from aegis_agent.domain.tool import Checks, JsonSchema

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

Prepare = Callable[[Arguments], Awaitable[Any]]
"""Has a child prepare arguments; returns what it makes of them."""


@dataclass(frozen=True, slots=True)
class Item:
    """One run of the model.

    Attributes:
        feeds: Its inputs.
        mask: Which tokens of a text count, or None.
    """

    feeds: Tensors
    mask: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """What a child does with what users send, before the model gets it.

    Attributes:
        target: `module:qualname` of its factory.
        options: JSON values for the factory.
        files: Its options that are files of the bundle, option to name; in memory as long as the model is.
        output_bytes: Most bytes that it makes of one call.
    """

    target: str
    options: Mapping[str, Any]
    files: Mapping[str, str] = field(default_factory=dict)
    output_bytes: int


class Reader(Protocol):
    """Turns arguments into runs of the model.

    Attributes:
        properties: JSON Schemas of the parameters by name.
        required: Which of them have to be there.
        preparation: What a child does for it, or None.
    """

    @property
    def properties(self) -> Mapping[str, JsonSchema]: ...

    @property
    def required(self) -> Sequence[str]: ...

    @property
    def preparation(self) -> Preparation | None: ...

    async def read(self, arguments: Arguments, prepare: Prepare) -> list[Item]:
        """Return the runs that *arguments* ask for.

        Raises:
            InvalidToolInput: They do not fit.
        """
        ...


class Writer(Protocol):
    """Turns the outputs of runs into an answer.

    Attributes:
        parameters: JSON Schemas of parameters that say how to answer; none is required.
        properties: JSON Schemas of the answer's fields; all are there.
    """

    @property
    def parameters(self) -> Mapping[str, JsonSchema]: ...

    @property
    def properties(self) -> Mapping[str, JsonSchema]: ...

    def write(self, arguments: Arguments, items: Sequence[Item], outputs: Sequence[Tensors]) -> Any:
        """Return the answer: JSON values.

        Raises:
            ToolFailed: The model gave what is no answer.
        """
        ...


@dataclass(frozen=True, slots=True)
class Form:
    """Both ways, and the checks of what comes in.

    Attributes:
        labels: Names of the classes in the model's order, or none.
    """

    reader: Reader
    writer: Writer
    checks: Checks
    labels: tuple[str, ...] = ()

    @property
    def input_schema(self) -> dict[str, Any]:
        return input_schema(self.reader, self.writer)

    @property
    def output_schema(self) -> dict[str, Any]:
        return closed(self.writer.properties, list(self.writer.properties)) | {"$schema": DIALECT}


def input_schema(reader: Reader, writer: Writer) -> dict[str, Any]:
    """Return the JSON Schema of a tool's arguments."""
    return closed({**reader.properties, **writer.parameters}, reader.required) | {"$schema": DIALECT}


def closed(properties: Mapping[str, Any], required: Sequence[str]) -> dict[str, Any]:
    """Return the JSON Schema of an object with these fields and no others."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(required),
        "additionalProperties": False,
    }
