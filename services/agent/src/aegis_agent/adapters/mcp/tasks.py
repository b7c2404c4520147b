"""Durable jobs as MCP tasks (extension `io.modelcontextprotocol/tasks`): `tools/call` may give one.

A call becomes a job when its tool has the tag `task` and the client says that it understands tasks.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from typing import Any, Final

from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp_types import (
    HEADER_MISMATCH,
    INTERNAL_ERROR,
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    CallToolResult,
    RequestParams,
)
from pydantic import ConfigDict, Field

from aegis.agent.v1 import part_pb2
from aegis_agent.adapters import parts
from aegis_agent.adapters.jobs.content import caller_of, decoded, encode
from aegis_agent.adapters.mcp.content import blocks, structured
from aegis_agent.adapters.mcp.errors import error_data, tool_error
from aegis_agent.domain.content import Content
from aegis_agent.domain.errors import InvalidToolInput, InvalidToolOutput, Violation
from aegis_agent.domain.jobs.job import Failure, Job, JobRef, JobSpec, State
from aegis_agent.domain.jobs.ports import StoredJob
from aegis_agent.domain.jobs.service import Creator, Jobs, Wanted
from aegis_agent.domain.offload import offloaded
from aegis_agent.domain.parts import ArtifactRef, arguments_of, artifact_names
from aegis_agent.domain.registry import Registry
from aegis_agent.domain.tool import JsonSchema, Tool
from aegis_common.auth.authorize import authorize
from aegis_common.errors import AegisError
from aegis_common.rpc.access import method_table
from aegis_common.rpc.call import current_call
from aegis_common.rpc.errors import ErrorDetails, RemoteError

EXTENSION: Final = "io.modelcontextprotocol/tasks"
TAG: Final = "task"
"""Tag of tools whose calls become tasks."""
_CREATE: Final = "/aegis.agent.v1.JobService/CreateJob"
_POLL_MS: Final = 1000
_OF_THE_TOOL: Final = ("TOOL_", "INVALID_TOOL_")

Context = ServerRequestContext[Any, Any]


class TaskParams(RequestParams):
    """What the methods of tasks take; answers to questions are let through, as no tool asks any."""

    model_config = ConfigDict(extra="ignore")

    task_id: str = Field(alias="taskId", max_length=128)


class TaskHandlers:
    """Translate only; the job service decides."""

    def __init__(self, jobs: Jobs, registry: Registry) -> None:
        self._jobs = jobs
        self._registry = registry

    def wanted(self, ctx: Context, tool: Tool) -> bool:
        """Tell whether a call of *tool* becomes a task."""
        return TAG in tool.spec.tags and _declared(ctx)

    async def create(self, tool: Tool, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Keep a call as a job, and return it as a task; when this returns, the job is on disk.

        Raises:
            InvalidToolInput: The arguments do not fit the tool.
            AegisError: The caller may not create jobs, or the job service refuses it.
        """
        call = current_call()
        authorize(method_table()[_CREATE], call.principal, peer_spiffe_id=call.peer_spiffe_id)
        if not any(isinstance(value, ArtifactRef) for value in arguments.values()):
            await offloaded(tool.checks.input, arguments_of(arguments, tool.spec))
        content = _payload(arguments, tool.spec.name)
        payload = encode(content)
        job = await self._jobs.create(
            Wanted(spec=JobSpec(tool=tool.spec.name, timeout=tool.spec.default_timeout)),
            tool=tool,
            creator=_creator(),
            payload=payload,
            artifacts=artifact_names(parts.from_protos(content)),
            request_id="",
            request_hash=hashlib.sha256(payload).hexdigest(),
        )
        call.notes["job"] = job.job_id
        return {"resultType": "task", **_about(job)}

    async def get(self, ctx: Context, params: TaskParams) -> dict[str, Any]:
        """Return a task, with its result or its error when it has ended.

        Raises:
            UnknownJob: The tenant has none of that id.
        """
        stored = await self._jobs.get(_ref(ctx, params))
        return {"resultType": "complete", **self._whole(stored, ctx.protocol_version)}

    async def update(self, ctx: Context, params: TaskParams) -> dict[str, Any]:
        """Take note of answers: no tool asks anything, so there is nothing that they could answer.

        Raises:
            UnknownJob: The tenant has none of that id.
        """
        await self._jobs.get(_ref(ctx, params))
        return {"resultType": "complete"}

    async def cancel(self, ctx: Context, params: TaskParams) -> dict[str, Any]:
        """Cancel a task; one that has ended stays as it is.

        Raises:
            UnknownJob: The tenant has none of that id.
        """
        await self._jobs.cancel(_ref(ctx, params))
        return {"resultType": "complete"}

    def _whole(self, stored: StoredJob, version: str) -> dict[str, Any]:
        job = stored.job
        task = _about(job)
        if stored.progress is not None and stored.progress.message:
            task["statusMessage"] = stored.progress.message
        if job.state is State.COMPLETED:
            task["result"] = _dumped(self._result(stored, version))
        elif job.failure is not None and job.state is State.FAILED:
            error = _error(job.failure)
            if error.reason.startswith(_OF_THE_TOOL):  # the tool's error is a result, as in a call
                task |= {"status": State.COMPLETED.value, "result": _dumped(tool_error(error))}
            else:
                data = error_data(error)
                task["error"] = {"code": INTERNAL_ERROR, "message": error.message, "data": data}
                task["statusMessage"] = error.message
        return task

    def _result(self, stored: StoredJob, version: str) -> CallToolResult:
        values = [_value(part) for part in decoded(stored.result)]
        value = values[0] if len(values) == 1 else values
        schema = self._schema(stored.job)
        if schema is None:  # as it is kept
            return CallToolResult(
                content=blocks(value), structured_content=value if isinstance(value, dict) else None
            )
        if isinstance(value, dict) and value.keys() == {"result"} and schema.get("type") != "object":
            value = value["result"]  # how parts carry what is no object
        return CallToolResult(content=blocks(value), structured_content=structured(value, schema, version))

    def _schema(self, job: Job) -> JsonSchema | None:
        """Return what the job's tool gives; None when the tool has been removed since."""
        try:
            found = self._registry.find(job.spec.tool, caller=caller_of(job.principal))
        except AegisError:
            return None
        return found.tool.spec.output_schema


def _declared(ctx: Context) -> bool:
    capabilities = ctx.session.client_capabilities
    return bool(capabilities and EXTENSION in (capabilities.extensions or {}))


def _ref(ctx: Context, params: TaskParams) -> JobRef:
    if not _declared(ctx):
        raise MCPError(
            MISSING_REQUIRED_CLIENT_CAPABILITY,
            "the client does not say that it understands tasks",
            {"requiredCapabilities": {"extensions": {EXTENSION: {}}}},
        )
    named = ctx.request.headers.get("mcp-name") if ctx.request is not None else None
    if named is not None and named != params.task_id:
        raise MCPError(HEADER_MISMATCH, "the header Mcp-Name is not the taskId")
    return JobRef(tenant=current_call().principal.tenant, job_id=params.task_id)


def _creator() -> Creator:
    call = current_call()
    return Creator(
        tenant=call.principal.tenant,
        principal=call.principal.to_record(),
        subject=call.principal.subject,
        traceparent=call.traceparent or f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01",
    )


def _payload(arguments: Mapping[str, Any], tool: str) -> list[part_pb2.Part]:
    apart = {name: value for name, value in arguments.items() if isinstance(value, ArtifactRef)}
    plain = {name: value for name, value in arguments.items() if name not in apart}
    made = [part_pb2.Part(name=name, artifact=value.name) for name, value in apart.items()]
    try:
        return [part_pb2.Part(json=parts.to_struct(plain)), *made]
    except InvalidToolOutput as error:  # a Struct holds less than JSON does
        rule = error.metadata.get("rule", "json")
        fault = Violation("", rule, "a task keeps integers up to 2^53, and some 28 objects inside each other")
        raise InvalidToolInput.of(tool, [fault]) from error


def _about(job: Job) -> dict[str, Any]:
    updated = job.ended or job.started or job.created
    left = job.expires - job.created if job.expires else None
    return {
        "taskId": job.job_id,
        "status": job.state.value,
        "createdAt": job.created.isoformat(),
        "lastUpdatedAt": updated.isoformat(),
        "ttlMs": None if left is None else int(left.total_seconds() * 1000),
        "pollIntervalMs": _POLL_MS,
    }


def _error(failure: Failure) -> AegisError:
    return RemoteError(
        ErrorDetails(
            failure.kind,
            failure.reason,
            failure.message,
            dict(failure.metadata),
            dict(failure.violations),
        )
    )


def _value(part: part_pb2.Part) -> Any:
    kind = part.WhichOneof("content")
    if kind == "json":
        return parts.plain(part.json)
    if kind == "artifact":
        return ArtifactRef(part.artifact)
    if kind == "inline_bytes":
        return Content(part.inline_bytes, part.media_type, part.filename)
    return part.text


def _dumped(result: CallToolResult) -> dict[str, Any]:
    return result.model_dump(by_alias=True, mode="json", exclude_none=True)
