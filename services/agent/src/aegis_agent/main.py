"""The agent service: wires tools, models and the server together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from aegis.agent.v1 import agent_service_pb2_grpc, model_service_pb2_grpc
from aegis_agent.adapters.agent_servicer import AgentServicer
from aegis_agent.adapters.model_library import StoredModels
from aegis_agent.adapters.model_servicer import ModelServicer
from aegis_agent.adapters.onnx_loader import ModelOptions, OnnxLoader
from aegis_agent.adapters.plugins import installed_tools, named_tools
from aegis_agent.adapters.workers.setup import WorkerLimits
from aegis_agent.domain.models import Models
from aegis_agent.manager import AgentManager
from aegis_agent.settings import AgentSettings
from aegis_agent.tools.builtin import BUILTIN
from aegis_common.errors import AegisError
from aegis_common.logs import setup_logging
from aegis_common.rpc.server import Running, run_main, serving, until_signalled
from aegis_common.settings import load
from aegis_common.signing import TrustedKeys
from aegis_common.store.objects import ObjectStore
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
        stack.callback(telemetry.shutdown)
        manager = await stack.enter_async_context(AgentManager())
        _register(manager, settings)
        models = _models(manager, settings)
        stack.push_async_callback(models.close)
        await models.start()
        if settings.warm_up:
            warming = asyncio.get_running_loop().create_task(_warm_up(manager))
            stack.push_async_callback(_cancelled, warming)
        yield await stack.enter_async_context(
            serving(
                settings,
                name=NAME,
                add=[
                    (
                        agent_service_pb2_grpc.add_AgentServiceServicer_to_server,
                        AgentServicer(manager.registry, manager.dispatcher),
                    ),
                    (model_service_pb2_grpc.add_ModelServiceServicer_to_server, ModelServicer(models)),
                ],
                telemetry=telemetry,
                reflect_everything=True,
            )
        )


def _register(manager: AgentManager, settings: AgentSettings) -> None:
    for name, function in BUILTIN.items():
        manager.register_tool(name, function)
    for name, function in named_tools(settings.tools):
        manager.register_tool(name, function)
    for name, function in installed_tools() if settings.plugins else ():
        try:
            manager.register_tool(name, function)
        except AegisError as error:
            _log.error("plugin brings no usable tool", extra={"tool": name, "error": error.message})


def _models(manager: AgentManager, settings: AgentSettings) -> Models:
    library = StoredModels(
        ObjectStore.open(settings.model_store_url, options=settings.model_store),
        TrustedKeys.load(*settings.model_trusted_keys),
        max_model_bytes=settings.max_model_bytes,
    )
    options = ModelOptions(
        threads=settings.model_threads,
        concurrency=settings.model_concurrency,
        queue_size=settings.model_queue_size,
        timeout=settings.model_timeout,
        limits=WorkerLimits(memory_bytes=settings.child_memory_bytes),
    )
    return Models(library, OnnxLoader(manager.fork_server, options), manager.registry)


async def _warm_up(manager: AgentManager) -> None:
    try:
        await manager.warm_up()
    except AegisError as error:
        _log.error("a tool cannot be made ready", extra={"error": error.message})


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def serve() -> None:
    """Serve until SIGTERM or SIGINT."""
    async with running(load(AgentSettings)):
        await until_signalled()


def main() -> None:
    """Entry point of `aegis-agent`."""
    run_main(serve)


if __name__ == "__main__":
    main()
