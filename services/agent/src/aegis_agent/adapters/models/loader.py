"""Makes a tool of a model version: measured in a child, then run where the measurement says.

A model is parsed for the first time in a child: a file that crashes onnxruntime must not take the agent with
it. After that it may run in the agent's own process: it is signed by a key that the operator trusts, the same
bytes have been loaded and run before, and what users send are arrays of checked type and shape, no files.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

from aegis_agent.adapters.children.fork_server import ForkServer
from aegis_agent.adapters.children.pool import WorkerPool
from aegis_agent.adapters.children.setup import WorkerSetup
from aegis_agent.adapters.models.contents import Contents, Told, not_loadable
from aegis_agent.adapters.models.forms.form import Form
from aegis_agent.adapters.models.forms.of_bundle import bundle_form
from aegis_agent.adapters.models.forms.tensors import tensor_form
from aegis_agent.adapters.models.forms.texts import can_read_texts
from aegis_agent.adapters.models.opening import Opening
from aegis_agent.adapters.models.options import ModelOptions
from aegis_agent.adapters.models.probe import BATCH, INLINE_S, MAX_ROWS, MAX_STOP_S, MIN_GAIN
from aegis_agent.adapters.models.runner import OnnxRunner
from aegis_agent.domain.errors import ToolCrashed, ToolFailed
from aegis_agent.domain.inference import Profile, Signature, Strategy, TensorSpec
from aegis_agent.domain.model import Fetch, ModelVersion
from aegis_agent.domain.model_tools import runner_of
from aegis_agent.domain.residency import Residency
from aegis_agent.domain.slots import Slots
from aegis_agent.domain.tool import RunsIn, Tool, ToolSpec

_PRELOAD: Final = (
    "numpy",
    "onnxruntime",
    "aegis_agent.adapters.models.probe",
    "aegis_agent.adapters.models.child",
    "aegis_agent.adapters.models.preparing.pixels",
    "aegis_agent.adapters.models.preparing.tokens",
)
_PROBE: Final = "aegis_agent.adapters.models.probe:Probe"


class OnnxLoader:
    """Loads ONNX models, alone or in bundles; a `ModelLoader` of the domain.

    Args:
        server: What children come from.
        options: How models are served.
        shared: Slots that all calls in child processes share; None means no bound.
    """

    def __init__(self, server: ForkServer, options: ModelOptions, *, shared: Slots | None = None) -> None:
        server.preload(_PRELOAD)
        self._shared = shared
        self._server = server
        self._options = options
        self._residency = Residency(options.memory_bytes)

    async def load(self, version: ModelVersion, data: bytes, fetch: Fetch) -> Tool:
        contents = await asyncio.to_thread(Contents.of, version, data)
        told = Told.of(version, contents.bundle)
        about = await self._probed(version, contents)
        signature, profile = _signature(about), profile_of(about)
        form = _form(version, contents, told, signature, profile)
        runner = self._runner(version, signature, profile, form, fetch)
        if contents.bundle is not None:
            await runner.load(data)  # its examples count from the beginning, whoever serves it when
        return Tool(
            spec=self._spec(version, profile, form, told),
            runner=runner,
            checks=form.checks,
            warnings=told.warnings,
            model_version=version.version,
        )

    async def verify(self, version: ModelVersion, data: bytes) -> None:
        async def again() -> bytes:
            return data

        runner = runner_of(await self.load(version, data, again))
        try:
            await runner.load(data)
        finally:
            runner.unload()

    async def close(self) -> None:
        await self._residency.close()

    async def _probed(self, version: ModelVersion, contents: Contents) -> Mapping[str, Any]:
        options = {
            "model": contents.model,
            "sha256": contents.sha256,
            "threads": self._options.threads,
            "max_input_bytes": self._options.max_input_bytes,
            "providers": list(contents.providers),
        }
        limits = self._options.limits_with(contents.providers)
        setup = WorkerSetup(target=_PROBE, factory=True, options=options, limits=limits)
        pool = WorkerPool(version.model, self._server, setup, size=1)
        try:
            about: Mapping[str, Any] = await pool.start()
        except (ToolFailed, ToolCrashed) as error:
            raise not_loadable(version, error.message) from error
        finally:
            await asyncio.shield(pool.close())
        return about

    def _runner(
        self, version: ModelVersion, signature: Signature, profile: Profile, form: Form, fetch: Fetch
    ) -> OnnxRunner:
        opening = Opening(self._server, self._options, version, signature, form, fetch, self._shared)
        opening.runner = OnnxRunner(
            version.model,
            signature,
            profile,
            form=form,
            residency=self._residency,
            load=opening,
            output_bytes=self._options.limits.output_bytes,
        )
        return opening.runner

    def _spec(self, version: ModelVersion, profile: Profile, form: Form, told: Told) -> ToolSpec:
        strategy = profile.strategy
        together = MAX_ROWS if strategy is Strategy.BATCH else 1
        return ToolSpec(
            name=version.model,
            description=told.description or f"Runs the model {version.model}.",
            version=version.version,
            input_schema=form.input_schema,
            output_schema=form.output_schema,
            default_timeout=self._options.timeout,
            concurrency=self._options.concurrency * together,
            queue_size=self._options.queue_size,
            idempotent=True,
            cacheable=told.cacheable,
            model=version.model,
            runs_in=RunsIn.CHILD if strategy is Strategy.CHILD else RunsIn.LOOP,
        )


def profile_of(about: Mapping[str, Any]) -> Profile:
    """Return how a model is run, given what `onnx_probe` has measured."""
    strategy, reason = _strategy(about)
    child = strategy is Strategy.CHILD
    return Profile(
        strategy=strategy,
        memory_bytes=int(about["memory_bytes"]),
        provider=str(about.get("provider", "CPU")),
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


def _form(
    version: ModelVersion, contents: Contents, told: Told, signature: Signature, profile: Profile
) -> Form:
    if contents.bundle is None:
        return tensor_form(version.model, signature, told.labels)
    if contents.bundle.spec.tokenizer is not None and not can_read_texts():
        raise not_loadable(
            version, "it takes texts, and the package tokenizers is missing: pip install 'aegis-agent[text]'"
        )
    return bundle_form(version.model, contents.bundle, signature, profile)


def _signature(about: Mapping[str, Any]) -> Signature:
    return Signature(_specs(about["inputs"]), _specs(about["outputs"]))


def _specs(tensors: Sequence[Sequence[Any]]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name, datatype, tuple(shape)) for name, datatype, shape in tensors)
