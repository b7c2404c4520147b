"""What workers say of their tools, values on the way, and the policy file."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from aegis.agent.v1 import worker_service_pb2 as pb
from aegis_agent.adapters.remote import specs, values
from aegis_agent.adapters.remote.policy import WorkerPolicy
from aegis_agent.domain.content import Content
from aegis_agent.domain.errors import InvalidTool
from aegis_agent.domain.registry import EVERYONE
from aegis_common.errors import ConfigurationError


@pytest.mark.parametrize(
    ("schema", "what"),
    [
        ("[]", "is no JSON object"),
        ('{"type": 7}', "is no JSON Schema"),
        ('{"$ref": "https://example.com/x"}', "refers to"),
        ('{"$ref": "#"}', "refers to"),
        ("{", "cannot be read"),
    ],
)
def test_a_schema_that_could_do_harm_is_refused(schema: str, what: str) -> None:
    tool = pb.WorkerTool(name="t", version="1", input_schema_json=schema, output_schema_json="{}")
    tool.default_timeout.FromTimedelta(timedelta(seconds=1))
    tool.max_timeout.FromTimedelta(timedelta(seconds=1))
    tool.concurrency = 1

    with pytest.raises(InvalidTool, match=what):
        specs.from_message(tool, owner=EVERYONE)


async def test_values_travel_exactly() -> None:
    value = {"a/b": [1, 2**80, b"\0", {"~": Content(b"x", "image/png", "x.png")}], "n": None, "f": 0.1}
    back = await values.from_message(values.to_message(value))

    assert value == back
    assert ("image/png", "x.png") == (back["a/b"][3]["~"].media_type, back["a/b"][3]["~"].filename)


@pytest.mark.parametrize("pointer", ["/a/0", "/b", "x", "/a/x", "/n/0"])
async def test_bytes_that_stand_nowhere_are_refused(pointer: str) -> None:
    message = pb.WorkerValue(json='{"a": [1], "n": 5}', blobs=[pb.WorkerBlob(pointer=pointer, data=b"x")])

    with pytest.raises(values.ValueFault):
        await values.from_message(message)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{", "no valid JSON"),
        ('{"schema_version": 2, "workers": {}}', "schema_version 2"),
        ('{"schema_version": 1, "workers": {"me": {"tenant": "*", "tools": []}}}', "is not spiffe"),
        ('{"schema_version": 1, "workers": {"spiffe://a/ns/b/sa/c": {"tenant": "*"}}}', "tenant and tools"),
        ('{"schema_version": 1, "workers": {"spiffe://a/ns/b/sa/c": {"tenant": "A!", "tools": []}}}', "all"),
    ],
)
def test_a_wrong_policy_is_refused_at_the_start(tmp_path: Path, text: str, what: str) -> None:
    path = tmp_path / "policy.json"
    path.write_text(text)

    with pytest.raises(ConfigurationError, match=what):
        WorkerPolicy(path)
