"""Makes the parts of the agent from its settings."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import platform
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import grpc.aio

from aegis_agent.adapters.artifacts.access import KeptArtifacts, TenantArtifacts
from aegis_agent.adapters.artifacts.store import StoredArtifacts
from aegis_agent.adapters.artifacts.sweeper import ArtifactSweeper
from aegis_agent.adapters.children.setup import WorkerLimits
from aegis_agent.adapters.http.listener import HttpDoor
from aegis_agent.adapters.http.routes import Route
from aegis_agent.adapters.jobs.connection import connect
from aegis_agent.adapters.jobs.effects import Bounds
from aegis_agent.adapters.jobs.wiring import JobOptions, RunningJobs, running_jobs
from aegis_agent.adapters.ledger import UsagePost
from aegis_agent.adapters.mcp.door import McpDoor, challenge
from aegis_agent.adapters.mcp.mounts import Mounts
from aegis_agent.adapters.mcp.upstream import UpstreamOptions
from aegis_agent.adapters.metrics import CallMetrics, observe_cache, observe_calls, observe_usage
from aegis_agent.adapters.models.library import StoredModels
from aegis_agent.adapters.models.loader import OnnxLoader
from aegis_agent.adapters.models.options import ModelOptions
from aegis_agent.adapters.models.publisher_keys import StoredPublisherKeys
from aegis_agent.adapters.plugins import installed_tools, named_tools
from aegis_agent.adapters.remote.fleet import Fleet
from aegis_agent.adapters.remote.peers import Peers
from aegis_agent.adapters.remote.policy import WorkerPolicy
from aegis_agent.adapters.remote.servicer import WorkerServicer
from aegis_agent.adapters.replicas.roster import Roster
from aegis_agent.adapters.tool_files.folder import ToolFolder
from aegis_agent.adapters.tool_files.host import FileHost
from aegis_agent.adapters.tool_files.records import StoredToolFiles
from aegis_agent.domain.artifacts import ArtifactPolicy
from aegis_agent.domain.models import Models
from aegis_agent.domain.replicas import Alone, Replicas
from aegis_agent.domain.tool_files import ToolFiles
from aegis_agent.domain.usage_book import UsageBook
from aegis_agent.manager import AgentManager
from aegis_agent.settings import AgentSettings
from aegis_agent.tools.builtin import BUILTIN
from aegis_common.background import Every, ended
from aegis_common.clock import utc_now
from aegis_common.errors import AegisError, ConfigurationError
from aegis_common.ledger import GrpcLedger
from aegis_common.rpc.channel import mesh_channel
from aegis_common.signing import TrustedKeys
from aegis_common.store.objects import ObjectStore
from aegis_common.store.sealed import RecordSeal
from aegis_common.telemetry import Telemetry

_log: Final = logging.getLogger(__name__)


@asynccontextmanager
async def running_artifacts(settings: AgentSettings) -> AsyncIterator[StoredArtifacts]:
    """The artifacts of all tenants, swept while the block runs.

    Raises:
        ConfigurationError: The spool folder does not exist.
    """
    options = settings.artifact_store or settings.model_store
    objects = ObjectStore.open(settings.artifact_store_url or settings.model_store_url, options=options)
    spool = settings.artifact_spool_dir
    if spool and not spool.is_dir():
        raise ConfigurationError(f"artifact_spool_dir {spool} is no folder", artifact_spool_dir=str(spool))
    policy = ArtifactPolicy(
        max_bytes=settings.max_artifact_bytes,
        quota_bytes=settings.artifact_quota_bytes,
        retention=settings.artifact_retention,
        max_retention=settings.max_artifact_retention,
        max_uploads=settings.artifact_uploads,
    )
    async with Every(settings.artifact_sweep, ArtifactSweeper(objects).sweep, name="artifact-sweeper"):
        yield StoredArtifacts(objects, policy, spool=spool)


@asynccontextmanager
async def running_tools(
    settings: AgentSettings, artifacts: StoredArtifacts, telemetry: Telemetry
) -> AsyncIterator[AgentManager]:
    """The core with every tool that the settings, installed packages and other MCP servers bring.

    Raises:
        ConfigurationError: A tool that the settings name cannot be imported.
    """
    async with contextlib.AsyncExitStack() as stack:
        manager = await stack.enter_async_context(
            AgentManager(
                cache_bytes=settings.cache_bytes,
                tenant_weights=settings.tenant_weights,
                child_slots=settings.child_slots,
                artifacts=lambda caller: TenantArtifacts(
                    artifacts, caller.tenant, max_load_bytes=settings.artifact_load_bytes
                ),
            )
        )
        manager.dispatcher.measure = CallMetrics(telemetry)
        observe_calls(telemetry, manager.registry)
        observe_cache(telemetry, manager.cache)
        _register(manager, settings)
        if settings.tools_dir is not None:
            await stack.enter_async_context(ToolFolder(manager, settings.tools_dir))
        servers = [UpstreamOptions(**server.model_dump()) for server in settings.mcp_servers]
        await stack.enter_async_context(Mounts(manager.registry, servers, retire=manager.retire_tool))
        yield manager


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


@asynccontextmanager
async def replicas_of(settings: AgentSettings) -> AsyncIterator[Replicas]:
    """What is known of other agents; this one is on the roster only while the block of `joined` runs."""
    name, url = settings.instance or platform.node(), settings.redis_url.get_secret_value()
    if not url:
        yield Alone(name, settings.advertise)
        return
    roster = Roster(connect(url), name=name, address=settings.advertise)
    try:
        yield roster
    finally:
        await roster.close()


def publisher_keys(settings: AgentSettings) -> StoredPublisherKeys:
    """Return the keys that tenants have enrolled.

    Raises:
        ConfigurationError: A file holds no Ed25519 key.
    """
    return StoredPublisherKeys(model_objects(settings), _seal(settings))


def _seal(settings: AgentSettings) -> RecordSeal | None:
    if settings.records_key is None:
        return None
    return RecordSeal.load(settings.records_key, earlier=settings.records_trusted_keys)


@asynccontextmanager
async def running_tool_files(
    manager: AgentManager, settings: AgentSettings, replicas: Replicas
) -> AsyncIterator[ToolFiles]:
    """The tools that are added through the service, which follow the store while the block runs.

    Raises:
        ConfigurationError: They are allowed, and there is no key to sign them with.
    """
    seal = _seal(settings) if settings.tool_files else None
    if settings.tool_files and seal is None:
        raise ConfigurationError("tool_files is set, and records_key is not: agents sign tool files with it")
    records = StoredToolFiles(model_objects(settings), seal) if seal is not None else None
    async with FileHost(manager, children_only=True) as host:
        files = ToolFiles(records, host, report=replicas.report)
        replicas.listen(files.look_soon)
        await files.look()
        following = asyncio.create_task(files.keep_in_step(), name="tool files")
        try:
            yield files
        finally:
            await ended(following)


def model_objects(settings: AgentSettings) -> ObjectStore:
    """Return the store of models, and of what agents write down beside them."""
    return ObjectStore.open(settings.model_store_url, options=settings.model_store)


def model_library(settings: AgentSettings, keys: StoredPublisherKeys) -> StoredModels:
    """Return the models in the store.

    Raises:
        ConfigurationError: A file holds no Ed25519 key.
    """
    return StoredModels(
        model_objects(settings),
        TrustedKeys.load(*settings.model_trusted_keys),
        keys=keys,
        max_model_bytes=settings.max_model_bytes,
        quota_bytes=settings.model_quota_bytes,
    )


@asynccontextmanager
async def running_models(
    manager: AgentManager, library: StoredModels, settings: AgentSettings, replicas: Replicas
) -> AsyncIterator[Models]:
    """The models of all tenants, which follow the store while the block runs."""
    options = ModelOptions(
        threads=settings.model_threads,
        concurrency=settings.model_concurrency,
        queue_size=settings.model_queue_size,
        timeout=settings.model_timeout,
        memory_bytes=settings.model_memory_bytes,
        max_input_bytes=settings.max_message_bytes,
        limits=WorkerLimits(memory_bytes=settings.child_memory_bytes),
    )
    loader = OnnxLoader(manager.fork_server, options, shared=manager.dispatcher.shared)
    models = Models(library, loader, manager.registry, report=replicas.report)
    replicas.listen(models.look_soon)
    try:
        await models.start()
        yield models
    finally:
        await models.close()


@asynccontextmanager
async def jobs_of(
    manager: AgentManager,
    settings: AgentSettings,
    artifacts: StoredArtifacts,
    telemetry: Telemetry,
    carbon: grpc.aio.Channel | None,
) -> AsyncIterator[RunningJobs | None]:
    """The durable jobs; None where no job store is set.

    Raises:
        ConfigurationError: The job store may lose what it acknowledged.
    """
    url = settings.redis_url.get_secret_value()
    if not url:
        _log.warning("REDIS_URL is not set: there are no jobs")
        yield None
        return
    options = JobOptions(
        url=url,
        strict=settings.job_store_check == "strict",
        slots=settings.job_slots,
        lease=settings.job_lease,
        keep=settings.job_retention,
        grace=settings.drain,
        bounds=Bounds(
            unfinished=settings.max_jobs, ended=settings.max_ended_jobs, bytes=settings.max_job_bytes
        ),
        weights=settings.tenant_weights,
        instance=settings.instance,
        zone=settings.zone_name,
        report=settings.usage_interval,
    )
    made = running_jobs(
        options,
        registry=manager.registry,
        dispatcher=manager.dispatcher,
        carbon=carbon,
        telemetry=telemetry,
        artifacts=KeptArtifacts(artifacts),
    )
    async with made as jobs:
        yield jobs


@asynccontextmanager
async def carbon_of(settings: AgentSettings) -> AsyncIterator[grpc.aio.Channel | None]:
    """The way to the carbon service; None where none is set."""
    if not settings.carbon:
        yield None
        return
    async with mesh_channel(settings.carbon, service="carbon", tls=settings.tls) as channel:
        yield channel


@asynccontextmanager
async def accounted(
    manager: AgentManager,
    settings: AgentSettings,
    telemetry: Telemetry,
    carbon: grpc.aio.Channel | None,
) -> AsyncIterator[None]:
    """Let the ledger learn what calls used, where there is a carbon service."""
    if carbon is None:
        yield
        return
    book = UsageBook(clock=utc_now)
    manager.dispatcher.uses = book
    observe_usage(telemetry, book)
    ledger = GrpcLedger(carbon, subject="agent")
    async with UsagePost(book, ledger, zone=settings.zone_name, interval=settings.usage_interval):
        yield


def workers_of(fleet: Fleet, manager: AgentManager, settings: AgentSettings) -> WorkerServicer:
    """Return the door of the remote workers."""
    return WorkerServicer(
        fleet,
        WorkerPolicy(settings.worker_policy),
        max_message_bytes=settings.max_message_bytes,
        artifacts=manager.dispatcher.artifacts,
    )


def peers_of(fleet: Fleet, settings: AgentSettings) -> Peers | None:
    """Return what finds the workers of other replicas; None where this replica is alone."""
    url = settings.redis_url.get_secret_value()
    if not (url and settings.advertise):
        return None
    return Peers(fleet, connect(url), advertise=settings.advertise, tls=settings.tls)


def http_doors(routes: Sequence[Route], mcp: McpDoor, settings: AgentSettings) -> list[HttpDoor]:
    """Return the HTTP listener, where one is set."""
    if not settings.http_listen:
        return []
    door = HttpDoor(
        settings.http_listen,
        list(routes),
        max_connection_age=settings.max_connection_age,
        challenge=challenge(settings.public_url),
        on_leave=mcp.leave,
        max_bodies_bytes=settings.http_bodies_bytes,
        max_responses_bytes=settings.http_responses_bytes,
    )
    return [door]
