"""What the protocol tells about the server and its models."""

from __future__ import annotations

from typing import Any, Final

from aegis_agent.adapters.models.probe import MAX_ROWS
from aegis_agent.adapters.oip import messages as pb
from aegis_agent.domain.errors import UnknownModel, UnknownModelVersion
from aegis_agent.domain.inference import Profile, Strategy, TensorSpec
from aegis_agent.domain.inferences import READY, UNAVAILABLE, Inferences
from aegis_agent.domain.model import ModelVersion
from aegis_agent.domain.model_errors import InvalidInferenceRequest, ModelNotServed
from aegis_agent.domain.model_tools import runner_of
from aegis_agent.domain.statistics import Duration, Statistics

NAME: Final = "aegis-agent"
EXTENSIONS: Final = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "parameters",
    "schedule_policy",
    "statistics",
)
_PLATFORM: Final = "onnxruntime_onnx"
_BACKEND: Final = "onnxruntime"
_FILE: Final = "model.onnx"
_TYPES: Final = {"BYTES": "TYPE_STRING"}
_KINDS: Final = {"CUDA": 1, "CPU": 2}


class Describer:
    """Answers what is asked about the server and a tenant's models.

    Args:
        inferences: The models.
        version: Version of the server.
    """

    def __init__(self, inferences: Inferences, *, version: str) -> None:
        self._inferences = inferences
        self._models = inferences.models
        self._version = version

    def server(self) -> Any:
        return pb.ServerMetadataResponse(name=NAME, version=self._version, extensions=EXTENSIONS)

    def server_ready(self) -> bool:
        """Return whether calls should come here: not while the service drains."""
        return not self._inferences.draining

    def ready(self, name: str, version: str, *, tenant: str) -> bool:
        """Return whether calls of a model are let in; of one that the tenant lacks they are not."""
        if self._inferences.draining:
            return False
        try:
            if version:
                found = self._models.version(name, version, tenant=tenant)
            else:
                found = self._models.production(name, tenant=tenant)
        except (UnknownModel, UnknownModelVersion, ModelNotServed):
            return False
        return self._inferences.state(found)[0] != UNAVAILABLE

    async def metadata(self, name: str, version: str, *, tenant: str) -> Any:
        signature = runner_of((await self._models.find(name, version, tenant=tenant)).tool).signature
        response = pb.ModelMetadataResponse(
            name=name,
            versions=[item.version for item in self._models.versions(name, tenant=tenant)],
            platform=_PLATFORM,
        )
        for target, specs in ((response.inputs, signature.inputs), (response.outputs, signature.outputs)):
            for spec in specs:
                target.add(name=spec.name, datatype=spec.datatype, shape=_dims(spec))
        return response

    async def config(self, name: str, version: str, *, tenant: str) -> Any:
        found = await self._models.find(name, version, tenant=tenant)
        runner = runner_of(found.tool)
        profile = runner.profile
        response = pb.ModelConfigResponse()
        config = response.config
        config.name, config.platform, config.backend = name, _PLATFORM, _BACKEND
        config.default_model_filename = _FILE
        config.max_batch_size = min(MAX_ROWS, profile.piece_rows) if profile.rows else 0
        skip = 1 if config.max_batch_size else 0
        for target, specs in (
            (config.input, runner.signature.inputs),
            (config.output, runner.signature.outputs),
        ):
            for spec in specs:
                kind = _TYPES.get(spec.datatype, f"TYPE_{spec.datatype}")
                target.add(name=spec.name, data_type=kind, dims=_dims(spec)[skip:])
        if profile.strategy is Strategy.BATCH:
            config.dynamic_batching.preserve_ordering = False
        together = MAX_ROWS if profile.strategy is Strategy.BATCH else 1
        config.instance_group.add(
            name=name, count=max(1, found.tool.spec.concurrency // together), kind=_KINDS[profile.provider]
        )
        config.model_transaction_policy.decoupled = False
        for key, value in _measured(profile).items():
            config.parameters[key].string_value = value
        return response

    async def statistics(self, name: str, version: str, *, tenant: str) -> Any:
        """Return the counters of one version, of all versions of a model, or of everything.

        Raises:
            UnknownModel: The tenant has none of that name.
            UnknownModelVersion: The model has no such version.
        """
        if version and not name:
            raise InvalidInferenceRequest.at("version", "is given without a model")
        names = [name] if name else [item.name for item in await self._models.models(tenant=tenant)]
        if version:
            found = [self._models.version(name, version, tenant=tenant)]
        else:
            found = [item for one in names for item in self._models.versions(one, tenant=tenant)]
        response = pb.ModelStatisticsResponse()
        for item in found:
            self._add_statistics(response, item)
        return response

    async def index(self, repository: str, *, only_ready: bool, tenant: str) -> Any:
        """Return every version and its state.

        Raises:
            InvalidInferenceRequest: A repository is named; there is one, without a name.
        """
        check_repository(repository)
        names = [item.name for item in await self._models.models(tenant=tenant)]
        response = pb.RepositoryIndexResponse()
        for item in self._inferences.index(tenant=tenant, names=names):
            if item.state == READY or not only_ready:
                response.models.add(
                    name=item.version.model,
                    version=item.version.version,
                    state=item.state,
                    reason=item.reason,
                )
        return response

    def _add_statistics(self, response: Any, version: ModelVersion) -> None:
        runner, _ = self._models.loaded(version)
        counted = runner.statistics if runner is not None else Statistics()
        entry = response.model_stats.add(
            name=version.model,
            version=version.version,
            last_inference=counted.last_inference_ms,
            inference_count=counted.inferences,
            execution_count=counted.executions,
        )
        stats = entry.inference_stats
        for name in ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output"):
            _fill(getattr(stats, name), getattr(counted, name))
        for rows, duration in sorted(counted.batches.items()):
            _fill(entry.batch_stats.add(batch_size=rows).compute_infer, duration)
        if runner is not None and runner.resident_bytes:
            entry.memory_usage.add(type="CPU", id=0, byte_size=runner.resident_bytes)


def check_repository(name: str) -> None:
    """Check that a request names no repository.

    Raises:
        InvalidInferenceRequest: It does.
    """
    if name:
        raise InvalidInferenceRequest.at("repository_name", f"{name!r} is not known; leave it empty")


def _fill(target: Any, duration: Duration) -> None:
    target.count, target.ns = duration.count, duration.ns


def _dims(spec: TensorSpec) -> list[int]:
    return [-1 if size is None else size for size in spec.shape]


def _measured(profile: Profile) -> dict[str, str]:
    numbers = {
        "batch_1_us": profile.batch_1_us,
        "batch_8_us": profile.batch_8_us,
        "terminate_ms": profile.terminate_ms,
    }
    told = {name: f"{value:.1f}" for name, value in numbers.items() if value is not None}
    about = {"strategy": profile.strategy.value, "reason": profile.reason, "provider": profile.provider}
    return {**about, **told}
