"""What is told about a tool, between a worker and an agent."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

from google.protobuf.duration_pb2 import Duration

from aegis.agent.v1 import worker_service_pb2 as pb
from aegis_agent.adapters.foreign_schemas import check_foreign
from aegis_agent.domain.call import Priority
from aegis_agent.domain.errors import InvalidTool
from aegis_agent.domain.registry import EVERYONE
from aegis_agent.domain.tool import RunsIn, ToolSpec

_TAG: Final = "remote"


def to_message(spec: ToolSpec) -> pb.WorkerTool:
    """Return *spec* as a worker tells it."""
    message = pb.WorkerTool(
        name=spec.name,
        description=spec.description,
        version=spec.version,
        input_schema_json=json.dumps(spec.input_schema),
        output_schema_json=json.dumps(spec.output_schema),
        default_timeout=_duration(spec.default_timeout),
        max_timeout=_duration(spec.max_timeout),
        concurrency=spec.concurrency,
        queue_size=spec.queue_size,
        priority=int(spec.priority),
        idempotent=spec.idempotent,
        retries=spec.retries,
        cacheable=spec.cacheable,
        streams=spec.streams,
        roles=sorted(spec.roles),
        tenants=sorted(spec.tenants),
        tags=spec.tags,
    )
    if spec.queue_timeout is not None:
        message.queue_timeout.FromTimedelta(spec.queue_timeout)
    return message


def from_message(message: pb.WorkerTool, *, owner: str) -> ToolSpec:
    """Return the spec of a tool that a worker brings for *owner*.

    Raises:
        InvalidTool: It cannot be one.
    """
    spec = ToolSpec(
        name=message.name,
        description=message.description,
        version=message.version,
        input_schema=_schema(message, message.input_schema_json, "input_schema_json"),
        output_schema=_schema(message, message.output_schema_json, "output_schema_json"),
        default_timeout=_time(message, message.default_timeout),
        max_timeout=_time(message, message.max_timeout),
        concurrency=message.concurrency,
        queue_size=message.queue_size,
        queue_timeout=_time(message, message.queue_timeout) if message.HasField("queue_timeout") else None,
        priority=Priority(message.priority),
        idempotent=message.idempotent,
        retries=message.retries,
        cacheable=message.cacheable,
        streams=message.streams,
        roles=frozenset(message.roles),
        tenants=frozenset(message.tenants),
        tags=tuple(sorted({*message.tags, _TAG})),
        runs_in=RunsIn.LOOP,
    )
    return spec if owner == EVERYONE else replace(spec, tenants=frozenset({owner}))


def _duration(value: timedelta) -> Duration:
    made = Duration()
    made.FromTimedelta(value)
    return made


def _time(message: pb.WorkerTool, value: Duration) -> timedelta:
    try:
        return value.ToTimedelta()
    except (ValueError, OverflowError) as error:
        raise InvalidTool(f"tool {message.name!r}: a time is out of range", tool=message.name) from error


def _schema(message: pb.WorkerTool, text: str, field: str) -> dict[str, Any]:
    where = f"tool {message.name!r}: {field}"
    try:
        return check_foreign(json.loads(text), tool=message.name, field=field)
    except (ValueError, RecursionError) as error:
        raise InvalidTool(f"{where} cannot be read: {str(error)[:200]}", tool=message.name) from error
