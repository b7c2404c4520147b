"""Brings a version into memory: the model itself, the children beside it, and its examples' proof."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from typing import Any, Final

from aegis_agent.adapters.children.fork_server import ForkServer
from aegis_agent.adapters.children.pool import WorkerPool
from aegis_agent.adapters.children.setup import WorkerSetup
from aegis_agent.adapters.models.bundled import BundledModel
from aegis_agent.adapters.models.contents import Contents, not_loadable
from aegis_agent.adapters.models.examples import check_examples
from aegis_agent.adapters.models.forms.form import Form
from aegis_agent.adapters.models.onnx_models import ChildModel, InProcessModel
from aegis_agent.adapters.models.options import ModelOptions
from aegis_agent.adapters.models.runner import OnnxRunner
from aegis_agent.adapters.models.session import OnnxSession
from aegis_agent.domain.errors import ToolCrashed, ToolFailed
from aegis_agent.domain.inference import LoadedModel, Profile, Signature, Strategy
from aegis_agent.domain.model import Fetch, ModelVersion
from aegis_agent.domain.slots import Slots
from aegis_common.store.bundle import Bundle

_CHILD: Final = "aegis_agent.adapters.models.child:Served"
_PREPARE_CPU_S: Final = 30


class Opening:
    """Brings one version into memory; again after it had to make room."""

    runner: OnnxRunner

    def __init__(
        self,
        server: ForkServer,
        options: ModelOptions,
        version: ModelVersion,
        signature: Signature,
        form: Form,
        fetch: Fetch,
        shared: Slots | None,
    ) -> None:
        self._shared = shared
        self._server = server
        self._options = options
        self._version = version
        self._signature = signature
        self._form = form
        self._fetch = fetch

    async def __call__(self, data: bytes | None) -> LoadedModel:
        data = await self._fetch() if data is None else data
        contents = await asyncio.to_thread(Contents.of, self._version, data)
        model = await self._model(contents, self.runner.profile)
        return model if contents.bundle is None else await self._bundled(contents.bundle, model)

    async def _bundled(self, bundle: Bundle, model: LoadedModel) -> LoadedModel:
        """Put what the bundle brings beside the model; it is ready when its examples have passed."""
        try:
            pool, held_bytes = await self._preparing(bundle)
            held_bytes += sum(sys.getsizeof(label) for label in self._form.labels)
            in_child = self.runner.profile.strategy is Strategy.CHILD  # such a call holds a slot already
            shared = None if in_child else self._shared
            model = BundledModel(model, pool, shared=shared, extra_bytes=held_bytes)
            timeout_s = self._options.timeout.total_seconds()
            await check_examples(self._version, bundle, self._form, model, timeout_s=timeout_s)
        except BaseException:
            await asyncio.shield(model.close())
            raise
        return model

    async def _preparing(self, bundle: Bundle) -> tuple[WorkerPool | None, int]:
        """Start the children that prepare what users send; return them, and what they hold."""
        preparation = self._form.reader.preparation
        if preparation is None:
            return None, 0
        limits = replace(self._options.limits, cpu_s=_PREPARE_CPU_S, output_bytes=preparation.output_bytes)
        files = {option: bundle.files[name] for option, name in preparation.files.items()}
        options = {**preparation.options, **files}
        setup = WorkerSetup(target=preparation.target, factory=True, options=options, limits=limits)
        try:
            pool, about = await self._started(setup)
        except (ToolFailed, ToolCrashed) as error:
            raise not_loadable(self._version, error.message) from error
        held_bytes = about["memory_bytes"] * (self._options.concurrency + 1)
        return pool, held_bytes + sum(map(len, files.values()))

    async def _model(self, contents: Contents, profile: Profile) -> LoadedModel:
        if profile.strategy is Strategy.CHILD:
            return await self._child(contents, profile)
        session = await asyncio.to_thread(
            OnnxSession,
            contents.model,
            sha256=contents.sha256,
            threads=self._options.threads,
            providers=(profile.provider,),
        )
        return InProcessModel(
            self._version.model,
            session,
            profile,
            concurrency=self._options.concurrency,
            stubborn=self._stubborn,
        )

    async def _child(self, contents: Contents, profile: Profile) -> LoadedModel:
        options = {
            "model": contents.model,
            "sha256": contents.sha256,
            "threads": self._options.threads,
            "providers": [profile.provider],
        }
        limits = self._options.limits_with([profile.provider])
        setup = WorkerSetup(target=_CHILD, factory=True, options=options, limits=limits)
        size = self._options.concurrency
        pool, _ = await self._started(setup)
        return ChildModel(pool, self._signature, memory_bytes=profile.memory_bytes * (size + 1))

    async def _started(self, setup: WorkerSetup) -> tuple[WorkerPool, Any]:
        pool = WorkerPool(self._version.model, self._server, setup, size=self._options.concurrency)
        try:
            about = await pool.start()
        except BaseException:
            await asyncio.shield(pool.close())
            raise
        return pool, about

    def _stubborn(self, waited_s: float) -> None:
        """Run the model in children from now on: it has just not stopped when it should have."""
        reason = f"a run went on {waited_s:g} s after it was told to stop"
        self.runner.profile = replace(
            self.runner.profile, strategy=Strategy.CHILD, inline_elements=0, reason=reason
        )
        self.runner.unload()
