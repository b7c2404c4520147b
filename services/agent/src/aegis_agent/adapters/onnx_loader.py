"""Makes a tool of a model version: children that hold the session, schemas from its inputs and outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from aegis_agent.adapters.workers.fork_server import ForkServer
from aegis_agent.adapters.workers.pool import WorkerPool
from aegis_agent.adapters.workers.setup import WorkerLimits, WorkerSetup
from aegis_agent.domain.call import Arguments
from aegis_agent.domain.errors import InvalidToolInput, ModelNotLoadable, ToolCrashed, ToolFailed, Violation
from aegis_agent.domain.models import ModelVersion
from aegis_agent.domain.tool import RunsIn, Tool, ToolSpec

FORMAT: Final = "onnx"
_PRELOAD: Final = ("numpy", "onnxruntime", "aegis_agent.adapters.onnx_runtime")
_TARGET: Final = "aegis_agent.adapters.onnx_runtime:OnnxModel"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """How models are served.

    Attributes:
        threads: Threads of one inference; 1 and up.
        concurrency: Most inferences of one model at once; 1 and up.
        queue_size: Most calls that wait for a slot; 0 and up.
        timeout: Deadline of a call that brings none.
    """

    threads: int = 1
    concurrency: int = 2
    queue_size: int = 64
    timeout: timedelta = timedelta(seconds=30)
    limits: WorkerLimits = WorkerLimits()


class OnnxLoader:
    """Loads ONNX models into children; a `ModelLoader` of the domain."""

    def __init__(self, server: ForkServer, options: ModelOptions) -> None:
        server.preload(_PRELOAD)
        self._server = server
        self._options = options

    async def load(self, version: ModelVersion, data: bytes) -> Tool:
        if version.format != FORMAT:
            raise _not_loadable(version, f"its format is {version.format!r}; only {FORMAT!r} can be served")
        labels = [str(item) for item in _list(_stated(version, "labels"))]
        setup = WorkerSetup(
            target=_TARGET,
            factory=True,
            options={
                "model": data,
                "sha256": version.sha256,
                "threads": self._options.threads,
                "labels": labels,
            },
            limits=self._options.limits,
        )
        pool = WorkerPool(version.model, self._server, setup, size=self._options.concurrency)
        try:
            about = await pool.start()
        except (ToolFailed, ToolCrashed) as error:
            await pool.close()
            raise _not_loadable(version, error.message) from error
        except BaseException:
            await pool.close()
            raise
        return Tool(
            spec=self._spec(version, about, labels),
            runner=pool,
            checks=_TensorChecks(version.model, [item["name"] for item in about["inputs"]]),
            warnings=_warnings(version),
            model_version=version.version,
        )

    def _spec(self, version: ModelVersion, about: Mapping[str, Any], labels: Sequence[str]) -> ToolSpec:
        output = _object(about["outputs"])
        if about["labelled"]:
            item = {"type": "string"} if labels else {"type": "integer", "minimum": 0}
            output["properties"]["labels"] = {
                "type": "array",
                "items": item,
                "description": "The class with the highest score, for each row.",
            }
        told = _stated(version, "description")
        return ToolSpec(
            name=version.model,
            description=told if isinstance(told, str) and told else f"Runs the model {version.model}.",
            version=version.version,
            input_schema=_object(about["inputs"]),
            output_schema=output,
            default_timeout=self._options.timeout,
            concurrency=self._options.concurrency,
            queue_size=self._options.queue_size,
            idempotent=True,
            model=version.model,
            runs_in=RunsIn.CHILD,
        )


class _TensorChecks:
    """Checks names only: the child checks every element, with numpy far faster than JSON Schema could."""

    def __init__(self, tool: str, inputs: Sequence[str]) -> None:
        self._tool = tool
        self._inputs = inputs

    def input(self, arguments: Arguments) -> Arguments:
        known = ", ".join(self._inputs)
        faults = [
            Violation(name, "required", "is required and missing")
            for name in self._inputs
            if name not in arguments
        ]
        faults += [
            Violation(name, "additionalProperties", f"is no input of this model; it takes {known}")
            for name in arguments
            if name not in self._inputs
        ]
        if faults:
            raise InvalidToolInput.of(self._tool, faults)
        return arguments

    def output(self, value: Any) -> None:
        """The child makes results from typed arrays; there is nothing left to check."""


def _object(tensors: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {item["name"]: _tensor(item) for item in tensors},
        "required": [item["name"] for item in tensors],
        "additionalProperties": False,
    }


def _tensor(item: Mapping[str, Any]) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": item["element"]}
    for size in reversed(item["shape"]):
        bounds = {"minItems": 1} if size is None else {"minItems": size, "maxItems": size}
        schema = {"type": "array", "items": schema, **bounds}
    shape = " x ".join("n" if size is None else str(size) for size in item["shape"])
    return {**schema, "description": f"{item['type']} {shape}".strip()}


def _stated(version: ModelVersion, name: str) -> Any:
    """Return what the manifest states: the publisher's word, else the training app's about its model."""
    about = version.provenance.get("model")
    inner = about.get(name) if isinstance(about, Mapping) else None
    return version.provenance.get(name, inner)


def _warnings(version: ModelVersion) -> tuple[str, ...]:
    domain = _stated(version, "domain")
    stated = [f"domain of the model: {domain}"] if isinstance(domain, str) and domain else []
    return (*stated, *(str(item) for item in _list(_stated(version, "warnings"))))


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _not_loadable(version: ModelVersion, why: str) -> ModelNotLoadable:
    return ModelNotLoadable(
        f"model {version.model!r} version {version.version!r} cannot be loaded: {why}",
        model=version.model,
        version=version.version,
    )
