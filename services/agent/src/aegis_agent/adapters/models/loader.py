"""Makes a tool of a model version: measured in a child, then run where the measurement says.

A model is parsed for the first time in a child: a file that crashes onnxruntime must not take the agent with
it. After that it may run in the agent's own process: it is signed by a key that the operator trusts, the same
bytes have been loaded and run before, and what users send are arrays of checked type and shape, no files.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Final

from aegis_agent.adapters.children.fork_server import ForkServer
from aegis_agent.adapters.children.pool import WorkerPool
from aegis_agent.adapters.children.setup import WorkerLimits, WorkerSetup
from aegis_agent.adapters.models.onnx_models import ChildModel, InProcessModel
from aegis_agent.adapters.models.probe import BATCH, INLINE_S, MAX_ROWS, MAX_STOP_S, MIN_GAIN
from aegis_agent.adapters.models.runner import OnnxRunner, is_labelled
from aegis_agent.adapters.models.session import OnnxSession
from aegis_agent.adapters.models.tensors import element, type_name
from aegis_agent.domain.call import Arguments
from aegis_agent.domain.errors import InvalidToolInput, ModelNotLoadable, ToolCrashed, ToolFailed, Violation
from aegis_agent.domain.inference import LoadedModel, Profile, Signature, Strategy, TensorSpec
from aegis_agent.domain.model import Fetch, ModelVersion
from aegis_agent.domain.residency import Residency
from aegis_agent.domain.tool import RunsIn, Tool, ToolSpec

FORMAT: Final = "onnx"
_PRELOAD: Final = (
    "numpy",
    "onnxruntime",
    "aegis_agent.adapters.models.probe",
    "aegis_agent.adapters.models.child",
)
_PROBE: Final = "aegis_agent.adapters.models.probe:Probe"
_CHILD: Final = "aegis_agent.adapters.models.child:Served"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """How models are served.

    Attributes:
        threads: Threads of one inference; 1 and up.
        concurrency: Most runs of one model at once; 1 and up. A run may hold the rows of many calls.
        queue_size: Most calls that wait for a slot; 0 and up.
        timeout: Deadline of a call that brings none.
        memory_bytes: Most that all models hold in memory together.
        max_input_bytes: Most bytes of one call's inputs.
        limits: Of children.
    """

    threads: int = 1
    concurrency: int = 2
    queue_size: int = 64
    timeout: timedelta = timedelta(seconds=30)
    memory_bytes: int = 2 << 30
    max_input_bytes: int = 9 << 20
    limits: WorkerLimits = field(default_factory=WorkerLimits)


class OnnxLoader:
    """Loads ONNX models; a `ModelLoader` of the domain."""

    def __init__(self, server: ForkServer, options: ModelOptions) -> None:
        server.preload(_PRELOAD)
        self._server = server
        self._options = options
        self._residency = Residency(options.memory_bytes)

    async def load(self, version: ModelVersion, data: bytes, fetch: Fetch) -> Tool:
        if version.format != FORMAT:
            raise _not_loadable(version, f"its format is {version.format!r}; only {FORMAT!r} can be served")
        about = await self._probed(version, data)
        signature = Signature(_specs(about["inputs"]), _specs(about["outputs"]))
        labels = [str(item) for item in _list(_stated(version, "labels"))]
        opening = _Opening(self._server, self._options, version, signature, fetch)
        runner = OnnxRunner(
            version.model,
            signature,
            profile_of(about),
            labels=labels,
            residency=self._residency,
            load=opening,
            output_bytes=self._options.limits.output_bytes,
        )
        opening.runner = runner
        return Tool(
            spec=self._spec(version, runner, labels),
            runner=runner,
            checks=_TensorChecks(version.model, [item.name for item in signature.inputs]),
            warnings=_warnings(version),
            model_version=version.version,
        )

    async def close(self) -> None:
        await self._residency.close()

    async def _probed(self, version: ModelVersion, data: bytes) -> Mapping[str, Any]:
        setup = WorkerSetup(
            target=_PROBE,
            factory=True,
            options={
                "model": data,
                "sha256": version.sha256,
                "threads": self._options.threads,
                "max_input_bytes": self._options.max_input_bytes,
            },
            limits=self._options.limits,
        )
        pool = WorkerPool(version.model, self._server, setup, size=1)
        try:
            about: Mapping[str, Any] = await pool.start()
        except (ToolFailed, ToolCrashed) as error:
            raise _not_loadable(version, error.message) from error
        finally:
            await asyncio.shield(pool.close())
        return about

    def _spec(self, version: ModelVersion, runner: OnnxRunner, labels: Sequence[str]) -> ToolSpec:
        output = _object(runner.signature.outputs)
        if is_labelled(runner.signature):
            item = {"type": "string"} if labels else {"type": "integer", "minimum": 0}
            output["properties"]["labels"] = {
                "type": "array",
                "items": item,
                "description": "The class with the highest score, for each row.",
            }
        told = _stated(version, "description")
        strategy = runner.profile.strategy
        together = MAX_ROWS if strategy is Strategy.BATCH else 1
        return ToolSpec(
            name=version.model,
            description=told if isinstance(told, str) and told else f"Runs the model {version.model}.",
            version=version.version,
            input_schema=_object(runner.signature.inputs),
            output_schema=output,
            default_timeout=self._options.timeout,
            concurrency=self._options.concurrency * together,
            queue_size=self._options.queue_size,
            idempotent=True,
            cacheable=_stated(version, "cacheable") is True,
            model=version.model,
            runs_in=RunsIn.CHILD if strategy is Strategy.CHILD else RunsIn.LOOP,
        )


class _Opening:
    """Brings one version into memory; again after it had to make room."""

    runner: OnnxRunner

    def __init__(
        self,
        server: ForkServer,
        options: ModelOptions,
        version: ModelVersion,
        signature: Signature,
        fetch: Fetch,
    ) -> None:
        self._server = server
        self._options = options
        self._version = version
        self._signature = signature
        self._fetch = fetch

    async def __call__(self, data: bytes | None) -> LoadedModel:
        data = await self._fetch() if data is None else data
        profile = self.runner.profile
        if profile.strategy is Strategy.CHILD:
            return await self._child(data, profile)
        session = await asyncio.to_thread(
            OnnxSession, data, sha256=self._version.sha256, threads=self._options.threads
        )
        return InProcessModel(
            self._version.model,
            session,
            profile,
            concurrency=self._options.concurrency,
            stubborn=self._stubborn,
        )

    async def _child(self, data: bytes, profile: Profile) -> LoadedModel:
        options = {"model": data, "sha256": self._version.sha256, "threads": self._options.threads}
        setup = WorkerSetup(target=_CHILD, factory=True, options=options, limits=self._options.limits)
        size = self._options.concurrency
        pool = WorkerPool(self._version.model, self._server, setup, size=size)
        try:
            await pool.start()
        except BaseException:
            await asyncio.shield(pool.close())
            raise
        return ChildModel(pool, self._signature, memory_bytes=profile.memory_bytes * (size + 1))

    def _stubborn(self, waited_s: float) -> None:
        """Run the model in children from now on: it has just not stopped when it should have."""
        reason = f"a run went on {waited_s:g} s after it was told to stop"
        self.runner.profile = replace(
            self.runner.profile, strategy=Strategy.CHILD, inline_elements=0, reason=reason
        )
        self.runner.unload()


def profile_of(about: Mapping[str, Any]) -> Profile:
    """Return how a model is run, given what `onnx_probe` has measured."""
    strategy, reason = _strategy(about)
    child = strategy is Strategy.CHILD
    return Profile(
        strategy=strategy,
        memory_bytes=int(about["memory_bytes"]),
        batch_1_us=about.get("batch_1_us"),
        batch_8_us=about.get("batch_8_us"),
        terminate_ms=about.get("terminate_ms"),
        rows=bool(about.get("rows")) and not child,
        inline_elements=0 if child else int(about.get("inline_elements", 0)),
        piece_rows=int(about.get("piece_rows", 0)),
        reason=reason,
    )


def _strategy(about: Mapping[str, Any]) -> tuple[Strategy, str]:
    if "batch_1_us" not in about:
        return Strategy.CHILD, f"it cannot be measured: {about['reason']}"
    stop_ms, one, many = about["terminate_ms"], about["batch_1_us"], about.get("batch_8_us")
    if stop_ms > MAX_STOP_S * 1e3:
        return Strategy.CHILD, f"it takes {stop_ms:.0f} ms to stop"
    if one <= INLINE_S * 1e6:
        return Strategy.INLINE, f"a run takes {one:.0f} us"
    gain = one * BATCH / many if many else 0.0
    if about.get("rows") and gain > MIN_GAIN:
        return Strategy.BATCH, f"a row takes {gain:.1f} times less among {BATCH}"
    return Strategy.THREAD, f"a run takes {one:.0f} us, and rows together gain nothing"


class _TensorChecks:
    """Checks names only: the runner checks every element, with numpy far faster than JSON Schema could."""

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
        """The runner makes results from typed arrays; there is nothing left to check."""


def _specs(tensors: Sequence[Sequence[Any]]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name, datatype, tuple(shape)) for name, datatype, shape in tensors)


def _object(tensors: Sequence[TensorSpec]) -> dict[str, Any]:
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {item.name: _tensor(item) for item in tensors},
        "required": [item.name for item in tensors],
        "additionalProperties": False,
    }


def _tensor(item: TensorSpec) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": element(item.datatype)}
    for size in reversed(item.shape):
        bounds = {"minItems": 1} if size is None else {"minItems": size, "maxItems": size}
        schema = {"type": "array", "items": schema, **bounds}
    shape = " x ".join("n" if size is None else str(size) for size in item.shape)
    return {**schema, "description": f"{type_name(item.datatype)} {shape}".strip()}


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
