"""Tasks of MCP as they are told when what made them is no longer there."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf.struct_pb2 import Struct
from services.agent.tests.job_values import KEEP, NOW, begun, new

from aegis.agent.v1 import part_pb2
from aegis_agent.adapters.jobs.content import encode
from aegis_agent.adapters.mcp import tasks
from aegis_agent.adapters.mcp.tasks import TaskHandlers
from aegis_agent.domain.errors import InvalidToolInput
from aegis_agent.domain.jobs import machine
from aegis_agent.domain.jobs.ports import StoredJob
from aegis_agent.domain.registry import Registry
from aegis_common.auth.principal import Principal


def json_part(value: dict[str, Any]) -> part_pb2.Part:
    struct = Struct()
    struct.update(value)
    return part_pb2.Part(json=struct)


@pytest.mark.parametrize(
    ("part", "text", "structured"),
    [
        (part_pb2.Part(text="said"), "said", None),
        (json_part({"result": 4}), '{"result": 4}', {"result": 4}),
        (json_part({"a": "b"}), '{"a": "b"}', {"a": "b"}),
    ],
)
def test_the_result_of_a_task_outlives_its_tool(part: part_pb2.Part, text: str, structured: Any) -> None:
    principal = Principal(spiffe_id="", subject="alice", tenant="red", roles=frozenset()).to_record()
    running = begun(new(principal=principal))
    done = machine.completed(running, 1, model_version="", warnings=(), keep=KEEP, now=NOW)
    stored = StoredJob(job=done, payload=b"", result=encode([part]), progress=None)
    handlers = TaskHandlers(jobs=None, registry=Registry())  # type: ignore[arg-type]  # not asked

    told = handlers._whole(stored, "2026-07-28")
    assert told["status"] == "completed"
    assert told["result"]["content"][0]["text"] == text
    assert told["result"].get("structuredContent") == structured


@pytest.mark.parametrize(
    "value",
    [2**60, json.loads("[" * 44 + "]" * 44)],
)
def test_arguments_that_a_task_cannot_keep_are_a_fault_of_the_input(value: Any) -> None:
    with pytest.raises(InvalidToolInput, match="a task keeps integers up to 2\\^53"):
        tasks._payload({"a": value}, "tool")
