"""Composition root of the coordinator."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Final

from aegis.fl.v1 import app_service_pb2_grpc as app_grpc
from aegis.fl.v1 import node_service_pb2_grpc as node_grpc
from aegis.fl.v1 import round_service_pb2_grpc as round_grpc
from aegis.fl.v1 import training_service_pb2_grpc as training_grpc
from aegis_common.background import Every
from aegis_common.clock import utc_now
from aegis_common.ledger import GrpcLedger
from aegis_common.rpc.channel import mesh_channel
from aegis_common.rpc.server import Running, run_main, serving, until_signalled
from aegis_common.settings import load
from aegis_common.signing import Signer, TrustedKeys
from aegis_common.store.connect import StoreOptions
from aegis_common.store.models import ModelStore
from aegis_common.store.objects import ObjectStore
from aegis_common.tls import server_dns
from aegis_fl_coordinator.adapters.app_servicer import AppServicer
from aegis_fl_coordinator.adapters.apps import FolderCatalogue
from aegis_fl_coordinator.adapters.carbon_gate import GrpcCarbonGate
from aegis_fl_coordinator.adapters.decision_store import SqliteDecisions
from aegis_fl_coordinator.adapters.flower_control import FlowerControl
from aegis_fl_coordinator.adapters.in_process import InProcessEngine
from aegis_fl_coordinator.adapters.node_servicer import NodeServicer
from aegis_fl_coordinator.adapters.publisher import AgentPublisher
from aegis_fl_coordinator.adapters.round_servicer import RoundServicer
from aegis_fl_coordinator.adapters.run_folders import VolumeFolders
from aegis_fl_coordinator.adapters.run_store import SqliteRunStore
from aegis_fl_coordinator.adapters.training_servicer import TrainingServicer
from aegis_fl_coordinator.adapters.usage_post import RoundUsagePost
from aegis_fl_coordinator.adapters.watch import Watcher
from aegis_fl_coordinator.domain.admission import Admission
from aegis_fl_coordinator.domain.apps import Apps
from aegis_fl_coordinator.domain.changes import Changes
from aegis_fl_coordinator.domain.grids import Site
from aegis_fl_coordinator.domain.ports import Engine
from aegis_fl_coordinator.domain.registry import NodeRegistry
from aegis_fl_coordinator.domain.retention import Retention
from aegis_fl_coordinator.domain.supervisor import Supervisor
from aegis_fl_coordinator.domain.training import Defaults, Training
from aegis_fl_coordinator.runfile import CoordinatorAddress
from aegis_fl_coordinator.settings import Settings

SERVICE: Final = "fl-coordinator"
_SWEEP: Final = timedelta(minutes=10)
_HEALTH_LOOK: Final = timedelta(seconds=1)


@asynccontextmanager
async def running(settings: Settings, *, engine: Engine | None = None) -> AsyncIterator[Running]:
    """Run a coordinator; ready while SuperLink answers.

    Args:
        settings: The settings.
        engine: Federated engine; by default Flower, at the SuperLink of the settings.

    Raises:
        ConfigurationError: A file or address of the settings cannot be used.
    """
    # One line for each look at SuperLink would bury everything else.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    async with AsyncExitStack() as stack:
        carbon = await stack.enter_async_context(
            mesh_channel(settings.carbon, service="carbon", tls=settings.tls)
        )
        agent = await stack.enter_async_context(
            mesh_channel(settings.agent, service="agent", tls=settings.tls)
        )
        settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        store = SqliteRunStore(settings.data_dir / "runs.db", clock=utc_now)
        stack.callback(store.close)
        engine = engine or FlowerControl(settings.superlink, ca=settings.superlink_ca)
        stack.callback(engine.close)
        in_process = InProcessEngine(settings.runs_dir, enabled=settings.in_process)
        stack.callback(in_process.close)
        decisions = SqliteDecisions(settings.data_dir / "apps.db")
        stack.callback(decisions.close)
        apps = Apps(
            catalogue=FolderCatalogue(settings.app_dirs, approved=settings.approved_apps),
            decisions=decisions,
            clock=utc_now,
        )
        changes = Changes()
        nodes = NodeRegistry(
            store=store, engine=engine, clock=utc_now, coordinator=Site(settings.zone, settings.watts)
        )
        address = _Address(settings)
        folders = VolumeFolders(settings.runs_dir, coordinator=address.get)
        supervisor = Supervisor(
            store=store,
            engine=engine,
            in_process=in_process,
            apps=apps,
            nodes=nodes,
            folders=folders,
            publisher=AgentPublisher(_model_store(settings), agent),
            changes=changes,
            clock=utc_now,
            look=settings.look,
        )
        gate = GrpcCarbonGate(carbon)
        training = Training(
            store=store,
            apps=apps,
            gate=gate,
            changes=changes,
            clock=utc_now,
            defaults=Defaults(settings.num_rounds, settings.min_clients, settings.run_retention),
            check_in_process=in_process.check_enabled,
        )
        admission = Admission(store=store, gate=gate, nodes=nodes, changes=changes, clock=utc_now)
        watcher = Watcher(store=store, changes=changes, clock=utc_now)
        server = await stack.enter_async_context(
            serving(
                settings,
                name=SERVICE,
                add=[
                    (
                        training_grpc.add_TrainingServiceServicer_to_server,
                        TrainingServicer(training, supervisor, watcher, folders),
                    ),
                    (app_grpc.add_AppServiceServicer_to_server, AppServicer(apps, training)),
                    (node_grpc.add_NodeServiceServicer_to_server, NodeServicer(nodes)),
                    (round_grpc.add_RoundServiceServicer_to_server, RoundServicer(admission)),
                ],
                ready=False,
            )
        )
        address.port = server.port
        stack.push_async_callback(supervisor.close)
        supervisor.adopt()
        post = RoundUsagePost(store, GrpcLedger(carbon, subject=SERVICE), clock=utc_now)
        await stack.enter_async_context(Every(settings.usage_interval, post.send, name="usage of rounds"))
        retention = Retention(store=store, folders=folders, clock=utc_now)
        await stack.enter_async_context(Every(_SWEEP, retention.sweep, name="retention of runs"))
        watch = asyncio.create_task(_follow_health(engine, server))
        stack.push_async_callback(_cancelled, watch)
        yield server


class _Address:
    """Where training apps reach this process; the port is known once the server is up."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.port = 0

    def get(self) -> CoordinatorAddress:
        settings, tls = self._settings, self._settings.serverapp_tls
        host = settings.listen.rpartition(":")[0]
        return CoordinatorAddress(
            target=settings.advertise or f"{host}:{self.port}",
            server_name=server_dns(SERVICE, settings.tls.namespace),
            cert=str(tls.cert),
            key=str(tls.key),
            bundle=str(tls.bundle),
        )


def _model_store(settings: Settings) -> ModelStore:
    options = StoreOptions(
        endpoint=settings.model_store_endpoint,
        region=settings.model_store_region,
        credentials_file=settings.model_store_credentials,
    )
    objects = ObjectStore.open(settings.model_store, options=options)
    return ModelStore(objects, Signer.load(settings.signing_key), TrustedKeys())


async def _follow_health(engine: Engine, server: Running) -> None:
    """Report SERVING exactly while SuperLink answers."""
    ready = False
    while True:
        healthy = await engine.healthy()
        if healthy is not ready:
            ready = healthy
            await server.set_ready(ready)
        await asyncio.sleep(_HEALTH_LOOK.total_seconds())


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def run() -> None:
    """Serve until SIGTERM or SIGINT."""
    async with running(load(Settings)):
        await until_signalled()


def main() -> None:
    run_main(run)
