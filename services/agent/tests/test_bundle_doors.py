"""Bundles at every door: typed tools over gRPC and MCP, the model's own tensors by the inference protocol."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from google.protobuf.json_format import MessageToDict
from services.agent.tests.mcp_agent import Agent
from services.agent.tests.oip_agent import Stack, failure, running_oip
from services.agent.tests.test_oip import TRITON

from aegis.agent.v1 import agent_service_pb2 as pb
from aegis.agent.v1 import agent_service_pb2_grpc as pb_grpc
from aegis.agent.v1 import part_pb2
from aegis_common.errors import ErrorKind
from aegis_common.pki import server_dns
from aegis_common.store.bundle import FORMAT_BUNDLE
from bundle_support import BLUE, COLOURS, bundle, mean_colour, picture

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    async with running_oip(tmp_path_factory.mktemp("bundles")) as made:
        example = {"input": {"image": {"file": "b.png"}}, "output": {"labels": [{"label": "blue"}]}}
        data = bundle(COLOURS, mean_colour(), {"b.png": picture(BLUE)}, examples=[example])
        await made.publish("pictures", data, "production", kind=FORMAT_BUNDLE)
        yield made


def agent(stack: Stack) -> pb_grpc.AgentServiceAsyncStub:
    made: pb_grpc.AgentServiceAsyncStub = pb_grpc.AgentServiceStub(stack.channel())
    return made


def image(data: bytes) -> part_pb2.Part:
    return part_pb2.Part(inline_bytes=data, media_type="image/png")


async def test_the_tool_has_its_typed_schema_and_takes_a_part_over_grpc(stack: Stack) -> None:
    found = (await agent(stack).GetTool(pb.GetToolRequest(name="tools/pictures"))).tool
    schema = MessageToDict(found.input_schema)
    answer = await agent(stack).Dispatch(
        pb.DispatchRequest(tool="tools/pictures", payload=[image(picture(BLUE))]), timeout=60
    )
    labels = MessageToDict(answer.result[0].json)["labels"]

    assert found.description == "Names the main colour."
    assert schema["properties"]["image"]["contentMediaType"] == "image/*"
    assert [labels[0], len(labels)] == [{"label": "blue", "score": 1.0}, 3]


async def test_an_image_that_is_none_is_the_callers_fault(stack: Stack) -> None:
    part = part_pb2.Part(inline_bytes=picture()[:50], media_type="image/png", name="image")
    kind, reason, metadata = await failure(
        agent(stack).Dispatch(pb.DispatchRequest(tool="tools/pictures", payload=[part]), timeout=60)
    )

    assert (kind, reason) == (ErrorKind.INVALID_ARGUMENT, "INVALID_TOOL_INPUT")
    assert (metadata["path"], metadata["rule"]) == ("image", "format")


async def test_a_bundle_whose_example_fails_is_refused_by_name(stack: Stack) -> None:
    example = {"input": {"image": {"file": "b.png"}}, "output": {"labels": [{"label": "red"}]}}
    data = bundle(COLOURS, mean_colour(), {"b.png": picture(BLUE)}, examples=[example])
    kind, reason, metadata = await failure(
        stack.publish("pictures", data, "production", version="v2", kind=FORMAT_BUNDLE)
    )

    assert (kind, reason) == (ErrorKind.FAILED_PRECONDITION, "MODEL_EXAMPLE_FAILED")
    assert metadata["field"] == "output.labels[0].label"
    assert (metadata["expected"], metadata["got"]) == ("'red'", "'blue'")


async def test_mcp_lists_and_calls_it_as_it_is(stack: Stack) -> None:
    server = Agent(stack.mesh, manager=None, port=stack.http_port)  # type: ignore[arg-type]
    async with server.client() as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        answer = await client.call_tool(
            "pictures", {"image": base64.b64encode(picture(BLUE)).decode(), "top_k": 1}
        )

    assert tools["pictures"].input_schema["required"] == ["image"]
    assert tools["pictures"].output_schema["required"] == ["labels"]
    assert answer.structured_content == {"labels": [{"label": "blue", "score": 1.0}]}


async def test_the_unchanged_tritonclient_has_the_models_own_tensors(stack: Stack) -> None:
    tls = stack.mesh.tls("sdk")
    options = {
        "url": f"127.0.0.1:{stack.port}",
        "bundle": str(tls.bundle),
        "key": str(tls.key),
        "cert": str(tls.cert),
        "name": server_dns("agent", "aegis"),
        "pictures": "pictures",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(TRITON), json.dumps(options), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    found = json.loads(out)

    assert process.returncode == 0
    assert found["scores"] == [[0, 1, 0], [0, 0, 1]]
    assert found["classes"] == ["1.000000:1:green", "1.000000:2:blue"]
    assert [item["name"] for item in found["metadata"]["inputs"]] == ["pixels"]
    assert found["config"]["parameters"]["provider"]["string_value"] == "CPU"
    assert found["config"]["instance_group"][0]["kind"] == "KIND_CPU"


async def test_rest_has_the_models_own_tensors_too(stack: Stack) -> None:
    tensor = {"name": "pixels", "datatype": "FP32", "shape": [1, 3, 8, 8], "data": [0] * 128 + [1] * 64}
    answer = await stack.rest("POST", "/v2/models/pictures/infer", json={"inputs": [tensor]})

    assert answer.json()["outputs"][0]["data"] == [0, 0, 1]
