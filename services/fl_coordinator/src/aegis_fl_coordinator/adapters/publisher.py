"""Takes a trained model to where it is served: signed into the model store, then announced to the agent."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final

import grpc
import grpc.aio

from aegis.agent.v1 import model_service_pb2 as pb
from aegis.agent.v1 import model_service_pb2_grpc as pb_grpc
from aegis_common.auth.principal import Principal
from aegis_common.rpc.errors import remote_error
from aegis_common.rpc.outgoing import acting_for
from aegis_common.store.models import ModelStore
from aegis_fl_coordinator.domain.ports import ExportedModel
from aegis_fl_coordinator.domain.run import TrainingRun

ALIAS: Final = "production"
_FORMAT: Final = "onnx"


class AgentPublisher:
    """A `ModelPublisher`: the version's id is the run's, so that a repeat publishes nothing twice."""

    def __init__(self, store: ModelStore, channel: grpc.aio.Channel) -> None:
        self._store = store
        self._agent = pb_grpc.ModelServiceStub(channel)

    async def publish(self, run: TrainingRun, model: ExportedModel) -> str:
        manifest = await self._store.publish(
            run.tenant,
            run.spec.model.removeprefix("models/"),
            run.run_id,
            model.onnx,
            format=_FORMAT,
            provenance=provenance(run, model),
        )
        request = pb.PublishModelVersionRequest(
            parent=run.spec.model, version=run.run_id, sha256=manifest.sha256, aliases=[ALIAS]
        )
        try:
            with acting_for(Principal.from_record(run.principal), traceparent=run.traceparent):
                answer = await self._agent.PublishModelVersion(request)
        except grpc.RpcError as error:
            raise remote_error(error) from error
        return answer.model_version.name


def provenance(run: TrainingRun, model: ExportedModel) -> dict[str, Any]:
    """Return where a model comes from: JSON values only."""
    return {
        "training_run": run.name,
        "creator": run.creator,
        "trace_id": run.trace_id,
        "app": run.spec.app,
        "app_sha256": run.app_sha256,
        "app_config": dict(run.spec.config),
        "min_nodes": run.spec.min_nodes,
        "rounds": [_round(asdict(report)) for report in run.rounds],
        "model": dict(model.description),
    }


def _round(report: dict[str, Any]) -> dict[str, Any]:
    gate = report["gate"]
    if gate is not None:
        gate = gate | {"waited": gate["waited"].total_seconds(), "zones": list(gate["zones"])}
    failures = list(report["node_failures"])
    metrics = dict(report["metrics"])
    duration = report["duration"].total_seconds()
    times = {name: report[name] and report[name].isoformat() for name in ("started", "ended")}
    # Which node did what is for those who may see the run.
    rest = {name: value for name, value in report.items() if name != "outcomes"}
    return rest | times | {"gate": gate, "duration": duration, "node_failures": failures, "metrics": metrics}
