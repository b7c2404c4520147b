"""Serves Forward: a call of another replica, at a worker of this one."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc.aio

from aegis.agent.v1 import worker_service_pb2 as pb
from aegis_agent.adapters.remote import values
from aegis_agent.adapters.remote.errors import NoWorker
from aegis_agent.adapters.remote.fleet import Fleet
from aegis_agent.adapters.remote.group import RemoteRunner
from aegis_agent.domain.call import Call, Caller, Checkpoint, Chunk, Event, LogLine, Progress
from aegis_agent.domain.dispatch import ArtifactsOf
from aegis_agent.domain.errors import InvalidToolInput, InvalidToolOutput, ToolNotAllowed, Violation
from aegis_agent.domain.registry import EVERYONE
from aegis_agent.domain.tool import ToolSpec
from aegis_common.errors import AegisError
from aegis_common.rpc.call import current_call
from aegis_common.rpc.errors import to_status

Context = grpc.aio.ServicerContext[Any, Any]


class Forwarded:
    """One such call.

    Args:
        request: The call.
        context: Where its events go.
    """

    def __init__(self, request: pb.ForwardRequest, context: Context) -> None:
        self._request = request
        self._message = request.call
        self._context = context

    async def serve(self, fleet: Fleet, artifacts: ArtifactsOf | None) -> None:
        """Run it, and write what it tells.

        Raises:
            NoWorker: It was not started.
            ToolNotAllowed: The tool is not the caller's to use.
        """
        group = fleet.group(self._request.owner, self._message.tool, self._request.digest)
        principal = current_call().principal
        caller = Caller(tenant=principal.tenant, subject=principal.subject, roles=principal.roles)
        _check(group.spec, self._request.owner, caller)
        call = await self._call(caller, artifacts)
        try:
            value = await RemoteRunner(group, here=True).run(call)
            result = pb.WorkerResult(call=self._message.call)
            if not group.spec.streams:
                result.value.CopyFrom(self._value(value))
            await self._context.write(pb.ForwardResponse(result=result))
        except NoWorker:
            raise
        except AegisError as error:
            current_call().reason = error.reason  # for the audit log: the rpc itself ends well
            failure = pb.WorkerFailure(call=self._message.call, error=to_status(error))
            await self._context.write(pb.ForwardResponse(failure=failure))

    async def _call(self, caller: Caller, artifacts: ArtifactsOf | None) -> Call:
        message = self._message
        try:
            arguments = await values.from_message(message.arguments)
        except values.ValueFault as error:
            raise InvalidToolInput.of(message.tool, [Violation("", "json", str(error))]) from error
        return Call(
            arguments=arguments,
            caller=caller,
            deadline=asyncio.get_running_loop().time() + current_call().time_remaining(),
            attempt=message.attempt,
            job=message.job,
            checkpoint=message.checkpoint if message.HasField("checkpoint") else None,
            sink=self._tell,
            artifacts=artifacts(caller) if artifacts else None,
        )

    async def _tell(self, event: Event) -> None:
        name = self._message.call
        if isinstance(event, Progress):
            said = pb.WorkerProgress(call=name, done=event.done, total=event.total, message=event.message)
            answer = pb.ForwardResponse(progress=said)
        elif isinstance(event, LogLine):
            line = pb.WorkerLog(call=name, level=event.level, message=event.message)
            answer = pb.ForwardResponse(log=line)
        elif isinstance(event, Checkpoint):
            answer = pb.ForwardResponse(checkpoint=event.data)
        elif isinstance(event, Chunk):
            answer = pb.ForwardResponse(chunk=self._value(event.value))
        await self._context.write(answer)

    def _value(self, value: Any) -> pb.WorkerValue:
        try:
            return values.to_message(value)
        except values.ValueFault as error:
            raise InvalidToolOutput.of(self._message.tool, Violation("", "json", str(error))) from error


def _check(spec: ToolSpec, owner: str, caller: Caller) -> None:
    """Refuse a caller for whom the tool is not, whatever the other replica has checked."""
    foreign = owner not in (EVERYONE, caller.tenant) or (spec.tenants and caller.tenant not in spec.tenants)
    if foreign or (spec.roles and spec.roles.isdisjoint(caller.roles)):
        raise ToolNotAllowed.of(spec.name, spec.roles)
