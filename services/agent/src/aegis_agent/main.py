"""The agent service: tools, models, jobs and artifacts behind its doors."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Final

from aegis.agent.v1 import agent_service_pb2_grpc as agent_grpc
from aegis.agent.v1 import artifact_service_pb2_grpc as artifact_grpc
from aegis.agent.v1 import job_service_pb2_grpc as job_grpc
from aegis.agent.v1 import model_service_pb2_grpc as model_grpc
from aegis.agent.v1 import publisher_service_pb2_grpc as publisher_grpc
from aegis.agent.v1 import tool_file_service_pb2_grpc as tool_file_grpc
from aegis.agent.v1 import worker_service_pb2_grpc as worker_grpc
from aegis_agent import wiring
from aegis_agent.adapters.agent_servicer import AgentServicer
from aegis_agent.adapters.artifacts.servicer import ArtifactServicer
from aegis_agent.adapters.jobs.servicer import JobServicer
from aegis_agent.adapters.mcp.door import McpDoor
from aegis_agent.adapters.models.publisher_servicer import PublisherServicer
from aegis_agent.adapters.models.servicer import ModelServicer
from aegis_agent.adapters.models.uploads import ModelUploads
from aegis_agent.adapters.oip.repository import Repository
from aegis_agent.adapters.oip.rest_routes import RestForm
from aegis_agent.adapters.oip.servicer import InferenceServicer, add_to_server
from aegis_agent.adapters.remote.fleet import Fleet
from aegis_agent.adapters.tool_files.servicer import ToolFileServicer
from aegis_agent.domain.inferences import Inferences
from aegis_agent.domain.publishers import Publishers
from aegis_agent.manager import AgentManager
from aegis_agent.settings import AgentSettings
from aegis_common.errors import AegisError
from aegis_common.logs import setup_logging
from aegis_common.rpc.server import Running, run_main, serving, until_signalled
from aegis_common.settings import load
from aegis_common.telemetry import setup_telemetry

NAME: Final = "agent"
_log: Final = logging.getLogger(__name__)


@asynccontextmanager
async def running(settings: AgentSettings) -> AsyncIterator[Running]:
    """Run the agent; on the way out it drains, and leaves no process behind.

    Raises:
        ConfigurationError: A setting cannot be used.
    """
    setup_logging(NAME, settings.log_level)
    telemetry = setup_telemetry(NAME, settings.otlp_endpoint)
    async with contextlib.AsyncExitStack() as stack:
        enter = stack.enter_async_context
        stack.callback(telemetry.shutdown)
        artifacts = await enter(wiring.running_artifacts(settings))
        manager = await enter(wiring.running_tools(settings, artifacts, telemetry))
        replicas = await enter(wiring.replicas_of(settings))
        keys = wiring.publisher_keys(settings)
        library = wiring.model_library(settings, keys)
        models = await enter(wiring.running_models(manager, library, settings, replicas))
        tool_files = await enter(wiring.running_tool_files(manager, settings, replicas))
        carbon = await enter(wiring.carbon_of(settings))
        await enter(wiring.accounted(manager, settings, telemetry, carbon))
        jobs = await enter(wiring.jobs_of(manager, settings, artifacts, telemetry, carbon))
        if settings.warm_up:
            await enter(_warming_up(manager))
        mcp = McpDoor(
            manager.registry,
            manager.dispatcher,
            public_url=settings.public_url,
            origins=settings.http_origins,
            artifacts=artifacts,
            jobs=jobs.door.jobs if jobs else None,
        )
        await enter(mcp.running())
        core, build = manager.dispatcher, version("aegis-agent")
        inferences = Inferences(models, shared=core.shared, uses=core.uses)
        repository = Repository(models, replicas)
        fleet = Fleet(manager.registry)
        workers, peers = wiring.workers_of(fleet, manager, settings), wiring.peers_of(fleet, settings)
        if peers:
            stack.push_async_callback(peers.close)
        uploads = ModelUploads(artifacts)
        agent, job_door = AgentServicer(manager.registry, manager.dispatcher), jobs.door if jobs else None
        server = await enter(
            serving(
                settings,
                name=NAME,
                add=[
                    (agent_grpc.add_AgentServiceServicer_to_server, agent),
                    (model_grpc.add_ModelServiceServicer_to_server, ModelServicer(models, uploads, replicas)),
                    (
                        publisher_grpc.add_PublisherServiceServicer_to_server,
                        PublisherServicer(Publishers(keys, library.announce_keys), replicas),
                    ),
                    (
                        tool_file_grpc.add_ToolFileServiceServicer_to_server,
                        ToolFileServicer(tool_files, replicas),
                    ),
                    (add_to_server, InferenceServicer(inferences, repository, version=build)),
                    (artifact_grpc.add_ArtifactServiceServicer_to_server, ArtifactServicer(artifacts)),
                    (job_grpc.add_JobServiceServicer_to_server, JobServicer(job_door)),
                    (worker_grpc.add_WorkerServiceServicer_to_server, workers),
                ],
                telemetry=telemetry,
                reflect_everything=True,
                doors=wiring.http_doors(
                    [*mcp.routes(), *RestForm(inferences, repository, version=build).routes()], mcp, settings
                ),
            )
        )
        stack.callback(workers.begin_drain)
        stack.callback(inferences.begin_drain)
        await enter(replicas.joined())
        if peers:
            await enter(peers)
        if jobs:  # jobs finish while calls do
            stack.callback(jobs.begin_drain)
        yield server


@asynccontextmanager
async def _warming_up(manager: AgentManager) -> AsyncIterator[None]:
    task = asyncio.get_running_loop().create_task(_warm_up(manager))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _warm_up(manager: AgentManager) -> None:
    try:
        await manager.warm_up()
    except AegisError as error:
        _log.error("a tool cannot be made ready", extra={"error": error.message})


async def serve() -> None:
    """Serve until SIGTERM or SIGINT."""
    async with running(load(AgentSettings)):
        await until_signalled()


def main() -> None:
    """Entry point of `aegis-agent`."""
    run_main(serve)


if __name__ == "__main__":
    main()
