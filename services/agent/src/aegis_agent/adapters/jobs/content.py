"""What a job holds of its caller's: arguments and result, as they are stored."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any, Final

from aegis.agent.v1 import job_service_pb2 as pb
from aegis.agent.v1 import part_pb2
from aegis_agent.adapters import parts
from aegis_agent.adapters.artifacts.results import result_parts
from aegis_agent.domain.call import Artifacts, Caller
from aegis_agent.domain.jobs.errors import ResultTooLarge
from aegis_agent.domain.jobs.ports import KeptArtifacts
from aegis_agent.domain.parts import artifact_names
from aegis_agent.domain.tool import JsonSchema
from aegis_common.auth.principal import Principal
from aegis_common.errors import AegisError, ErrorKind

_PAUSES_S: Final = (0.5, 1.0, 2.0, 4.0, 8.0)


def caller_of(principal: str) -> Caller:
    """Return for whom a job runs."""
    stored = Principal.from_record(principal)
    return Caller(tenant=stored.tenant, subject=stored.subject, roles=stored.roles)


def encode(made: Sequence[part_pb2.Part]) -> bytes:
    """Return parts as they are stored."""
    return pb.Job(payload=made).SerializeToString()


def decoded(stored: bytes) -> Sequence[part_pb2.Part]:
    """Return stored parts."""
    return pb.Job.FromString(stored).payload


async def stored_result(
    value: Any,
    schema: JsonSchema,
    *,
    tenant: str,
    room: int,
    own: Artifacts | None,
    kept: KeptArtifacts | None,
    until: datetime,
) -> bytes:
    """Return a result as it is stored; what is beyond the limit becomes artifacts, which live as long.

    Args:
        value: The result.
        schema: Of the tool's output.
        tenant: Whose job it is.
        room: Most bytes.
        own: Where the caller's artifacts go; None where there is no artifact store.
        kept: Keeps the artifacts that the result names.
        until: How long they are needed.

    Raises:
        ResultTooLarge: It is beyond the limit, and this agent keeps no artifacts.
    """
    made = await result_parts(value, own, room=room, schema=schema)
    encoded = encode(made)
    if len(encoded) > room and own is None:
        raise ResultTooLarge(
            f"the result is {len(encoded)} bytes; a job keeps {room}, and there is no artifact store",
            size_bytes=str(len(encoded)),
            max_bytes=str(room),
        )
    names = artifact_names(parts.from_protos(made))
    if names and kept is not None:
        await kept.keep(tenant, names, until=until)
    return encoded


async def patiently(work: Callable[[], Awaitable[bytes]]) -> bytes:
    """Return what *work* gives, trying again while something is away: the tool's work is done already."""
    for pause_s in _PAUSES_S:
        try:
            return await work()
        except AegisError as error:
            if error.kind is not ErrorKind.UNAVAILABLE:
                raise
            await asyncio.sleep(pause_s)
    return await work()
