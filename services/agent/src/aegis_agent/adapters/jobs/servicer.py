"""aegis.agent.v1.JobService: protobuf in, domain, protobuf out."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace

from aegis.agent.v1 import job_service_pb2 as pb
from aegis.agent.v1 import job_service_pb2_grpc as pb_grpc
from aegis_agent.adapters import parts
from aegis_agent.adapters.jobs.content import caller_of, encode
from aegis_agent.adapters.jobs.convert import (
    explained_message,
    job_message,
    time_of,
    wanted,
    whole_message,
)
from aegis_agent.adapters.jobs.watch import JobWatcher
from aegis_agent.domain.call import Arguments, Caller
from aegis_agent.domain.dispatch import MAY_RAISE
from aegis_agent.domain.jobs.errors import JobsNotConfigured
from aegis_agent.domain.jobs.job import JobRef
from aegis_agent.domain.jobs.service import Creator, Jobs, Wanted
from aegis_agent.domain.offload import offloaded
from aegis_agent.domain.parts import ArtifactRef, Part, arguments_of, artifact_names
from aegis_agent.domain.registry import Registry
from aegis_agent.domain.tool import Tool
from aegis_common.rpc.call import Call, Context, current_call


@dataclass(frozen=True, slots=True, kw_only=True)
class JobDoor:
    """What the service stands on."""

    jobs: Jobs
    watcher: JobWatcher
    registry: Registry


class JobServicer(pb_grpc.JobServiceServicer):
    """Translate only; without a door, every call says how to get one."""

    def __init__(self, door: JobDoor | None) -> None:
        self._given = door

    @property
    def _door(self) -> JobDoor:
        if self._given is None:
            raise JobsNotConfigured(
                "this agent has no job store; set REDIS_URL to a Redis that keeps its writes"
            )
        return self._given

    async def CreateJob(self, request: pb.CreateJobRequest, context: Context) -> pb.CreateJobResponse:
        door, creator = self._door, _creator(current_call())
        digest = hashlib.sha256(request.job.SerializeToString(deterministic=True)).hexdigest()
        known = await door.jobs.known(creator.tenant, request.request_id, request_hash=digest)
        if known is not None:
            return pb.CreateJobResponse(job=job_message(known))
        asked = wanted(request.job)
        caller = _caller()
        tool = door.registry.find(asked.spec.tool, caller=caller).tool
        content = await offloaded(parts.from_protos, request.job.payload)
        await _check_input(content, tool)
        job = await door.jobs.create(
            _with_priority(asked, tool, caller),
            tool=tool,
            creator=creator,
            payload=encode(request.job.payload),
            artifacts=artifact_names(content),
            request_id=request.request_id,
            request_hash=digest,
        )
        return pb.CreateJobResponse(job=job_message(job))

    async def GetJob(self, request: pb.GetJobRequest, context: Context) -> pb.GetJobResponse:
        return pb.GetJobResponse(job=whole_message(await self._door.jobs.get(_ref(request.name))))

    async def ListJobs(self, request: pb.ListJobsRequest, context: Context) -> pb.ListJobsResponse:
        found, token = await self._door.jobs.page(
            _caller().tenant,
            filter_text=request.filter,
            page_size=request.page_size,
            page_token=request.page_token,
        )
        jobs = [job_message(job, progress=progress) for job, progress in found]
        return pb.ListJobsResponse(jobs=jobs, next_page_token=token)

    async def CancelJob(self, request: pb.CancelJobRequest, context: Context) -> pb.CancelJobResponse:
        return pb.CancelJobResponse(job=job_message(await self._door.jobs.cancel(_ref(request.name))))

    async def WatchJob(
        self, request: pb.WatchJobRequest, context: Context
    ) -> AsyncIterator[pb.WatchJobResponse]:
        events = self._door.watcher.watch(
            _ref(request.name),
            resume_token=request.resume_token,
            time_remaining=current_call().time_remaining,
        )
        async for event in events:
            yield event

    async def RetryJob(self, request: pb.RetryJobRequest, context: Context) -> pb.RetryJobResponse:
        door, ref = self._door, _ref(request.name)
        stored = await door.jobs.get(ref)
        door.registry.find(stored.job.spec.tool, caller=_caller())
        job = await door.jobs.retry(
            ref, by=_creator(current_call()), deadline=time_of(request, "deadline", "deadline")
        )
        return pb.RetryJobResponse(job=job_message(job))

    async def ExplainJob(self, request: pb.ExplainJobRequest, context: Context) -> pb.ExplainJobResponse:
        return explained_message(await self._door.jobs.explain(_ref(request.name)))


def _ref(name: str) -> JobRef:
    return JobRef(tenant=_caller().tenant, job_id=name.removeprefix("jobs/"))


def _caller() -> Caller:
    return caller_of(current_call().principal.to_record())


def _creator(call: Call) -> Creator:
    principal = call.principal
    traceparent = call.traceparent or f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"
    return Creator(
        tenant=principal.tenant,
        principal=principal.to_record(),
        subject=principal.subject,
        traceparent=traceparent,
    )


def _with_priority(asked: Wanted, tool: Tool, caller: Caller) -> Wanted:
    """Return what is asked for in a class that the caller may have, as for any other call."""
    wished = tool.spec.priority if asked.priority is None else asked.priority
    allowed = wished if MAY_RAISE in caller.roles else max(wished, tool.spec.priority)
    return replace(asked, spec=replace(asked.spec, priority=allowed))


async def _check_input(content: Sequence[Part], tool: Tool) -> None:
    """Check the payload against the tool's schema; content of artifacts is checked when the job starts.

    Raises:
        InvalidToolInput: It does not fit.
    """
    arguments = arguments_of(content, tool.spec)
    if not _has_artifacts(arguments):
        await offloaded(tool.checks.input, arguments)


def _has_artifacts(arguments: Arguments) -> bool:
    pending = list(arguments.values())
    while pending:
        item = pending.pop()
        if isinstance(item, ArtifactRef) or (isinstance(item, str) and item.startswith("artifacts/")):
            return True
        if isinstance(item, dict):
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)
    return False
