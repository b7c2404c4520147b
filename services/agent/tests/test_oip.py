"""The Open Inference Protocol over real mutual TLS: the unchanged tritonclient, errors, streams, load."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from google.protobuf.struct_pb2 import Struct
from services.agent.tests.oip_agent import Stack, ask, failure, outputs, row, running_oip

from aegis.agent.v1 import agent_service_pb2 as agent_pb
from aegis.agent.v1 import agent_service_pb2_grpc, model_service_pb2_grpc
from aegis.agent.v1 import model_service_pb2 as model_pb
from aegis_agent.adapters.oip import messages as pb
from aegis_common.errors import ErrorKind
from aegis_common.pki import server_dns
from oip_support import dense, endless, scores

pytestmark = pytest.mark.asyncio(loop_scope="module")
TRITON = Path(__file__).with_name("triton_calls.py")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    async with running_oip(tmp_path_factory.mktemp("oip")) as made:
        yield made


async def test_the_unchanged_tritonclient_works(stack: Stack) -> None:
    tls = stack.mesh.tls("admin")
    options = {
        "url": f"127.0.0.1:{stack.port}",
        "bundle": str(tls.bundle),
        "key": str(tls.key),
        "cert": str(tls.cert),
        "name": server_dns("agent", "aegis"),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(TRITON), json.dumps(options), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    found = json.loads(out)

    statistics = found.pop("statistics")["model_stats"][0]
    errors = {
        name: item["status"] for name, item in found.items() if isinstance(item, dict) and "error" in item
    }
    assert process.returncode == 0
    assert errors == {
        "unknown": "StatusCode.NOT_FOUND",
        "bad_shape": "StatusCode.INVALID_ARGUMENT",
        "unloaded": "StatusCode.FAILED_PRECONDITION",
        "load_with_files": "StatusCode.INVALID_ARGUMENT",
    }
    assert [found[name] for name in ("live", "ready", "model_ready", "version_ready", "loaded")] == [
        True,
        True,
        True,
        True,
        ["a", "é", ""],
    ]
    assert (found["stranger_ready"], found["unloaded_ready"]) == (False, False)
    assert found["server"]["name"] == "aegis-agent"
    assert found["metadata"] == {
        "name": "colours",
        "versions": ["v1"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "input", "datatype": "FP32", "shape": ["-1", "4"]}],
        "outputs": [{"name": "scores", "datatype": "FP32", "shape": ["-1", "3"]}],
    }
    config = found["config"]["config"]
    assert (config["max_batch_size"], config["input"][0]["dims"]) == (32, ["4"])
    assert config["parameters"]["strategy"]["string_value"] == "inline"
    assert [item["state"] for item in found["index"]["models"]] == ["READY"] * 3
    assert found["infer"] == [[1, 0, 0], [2, 0, 0]]
    assert found["infer_options"] == ["r1", "v1", [[3, 0, 0]]]
    assert found["classes"] == ["5.000000:0:red", "0.000000:1:green"]
    assert found["async_infer"] == [[4, 0, 0]]
    assert found["stream"][:5] == [[[number, 0, 0]] for number in range(5)]
    assert "model 'nobody' does not exist" in found["stream"][5]
    assert found["stream"][6] == [[9, 0, 0]]
    assert (found["bytes"], found["fp16"]) == (["a", "é", ""], [[0.5, 1.5]])
    assert int(statistics["inference_stats"]["success"]["count"]) >= 10
    assert int(statistics["inference_count"]) == int(statistics["inference_stats"]["success"]["count"]) + 1


async def test_typed_contents_and_typed_outputs(stack: Stack) -> None:
    request = pb.ModelInferRequest(model_name="colours", id="7")
    tensor = request.inputs.add(name="input", datatype="FP32", shape=[1, 4])
    tensor.contents.fp32_contents.extend([0, 2, 0, 0])
    raw = await stack.call("ModelInfer", request)
    request.parameters["binary_data_output"].bool_param = False
    typed = await stack.call("ModelInfer", request)

    assert (raw.id, raw.model_version, outputs(raw)) == ("7", "v1", [[0, 2, 0]])
    assert not raw.outputs[0].HasField("contents")
    assert list(typed.outputs[0].contents.fp32_contents) == [0, 2, 0]
    assert list(typed.raw_output_contents) == []


def _changed(change: Callable[[Any], Any]) -> Any:
    request = ask()
    change(request)
    return request


@pytest.mark.parametrize(
    ("change", "reason", "path"),
    [
        (lambda r: r.inputs[0].shape.__setitem__(1, 5), "INVALID_TOOL_INPUT", "input"),
        (lambda r: r.inputs[0].shape.append(1), "INVALID_TOOL_INPUT", "input"),
        (lambda r: r.inputs[0].shape.__setitem__(0, -1), "INVALID_TOOL_INPUT", "input"),
        (lambda r: r.raw_input_contents.__setitem__(0, b"123"), "INVALID_TOOL_INPUT", "input"),
        (lambda r: setattr(r.inputs[0], "datatype", "FP64"), "INVALID_TOOL_INPUT", "input"),
        (lambda r: setattr(r.inputs[0], "name", "x"), "INVALID_TOOL_INPUT", "input"),
        (
            lambda r: r.inputs.add(name="input", datatype="FP32"),
            "INVALID_INFERENCE_REQUEST",
            "raw_input_contents",
        ),
        (
            lambda r: r.inputs[0].contents.fp32_contents.append(1),
            "INVALID_INFERENCE_REQUEST",
            "inputs[0]",
        ),
        (lambda r: r.outputs.add(name="labels"), "INVALID_INFERENCE_REQUEST", "outputs[0]"),
        (
            lambda r: r.parameters["timeout"].CopyFrom(_parameter(string_param="soon")),
            "INVALID_INFERENCE_REQUEST",
            "parameters.timeout",
        ),
        (
            lambda r: r.parameters["sequence_id"].CopyFrom(_parameter(int64_param=4)),
            "INVALID_INFERENCE_REQUEST",
            "parameters.sequence_id",
        ),
        (
            lambda r: r.inputs[0].parameters["shared_memory_region"].CopyFrom(_parameter(string_param="a")),
            "INVALID_INFERENCE_REQUEST",
            "inputs[0]",
        ),
    ],
)
async def test_a_bad_request_names_what_is_wrong(
    stack: Stack, change: Callable[[Any], Any], reason: str, path: str
) -> None:
    kind, found, metadata = await failure(stack.call("ModelInfer", _changed(change)))

    assert (kind, found, metadata["path"]) == (ErrorKind.INVALID_ARGUMENT, reason, path)


def _parameter(**value: Any) -> Any:
    made = pb.ModelInferRequest().parameters["x"]
    for name, item in value.items():
        setattr(made, name, item)
    return made


async def test_a_tenant_sees_its_own_models_only(stack: Stack) -> None:
    blue = await stack.call("RepositoryIndex", account="blue")
    ready = await stack.call("ModelReady", account="blue", name="colours")

    assert list(blue.models) == []
    assert ready.ready is False
    for method, fields in (
        ("ModelMetadata", {"name": "colours"}),
        ("ModelStatistics", {"name": "colours"}),
        ("RepositoryModelUnload", {"model_name": "colours"}),
    ):
        assert (await failure(stack.call(method, account="blue", **fields)))[1] == "UNKNOWN_MODEL"
    assert (await failure(stack.call("ModelInfer", ask(), account="blue")))[1] == "UNKNOWN_MODEL"


async def test_roles_decide_who_runs_and_who_unloads(stack: Stack) -> None:
    await stack.call("ModelMetadata", account="viewer", name="colours")

    assert (await failure(stack.call("ModelInfer", ask(), account="viewer")))[
        0
    ] is ErrorKind.PERMISSION_DENIED
    unload = stack.call("RepositoryModelUnload", account="viewer", model_name="colours")
    assert (await failure(unload))[0] is ErrorKind.PERMISSION_DENIED


async def test_a_version_without_an_alias_answers_by_its_id(stack: Stack) -> None:
    await stack.publish("shifted", scores(), version="a")
    await stack.publish("shifted", scores(1), version="b")
    first, second = [
        outputs(await stack.call("ModelInfer", ask("shifted", model_version=version))) for version in "ab"
    ]

    assert (first, second) == ([[1, 0, 0]], [[0, 1, 0]])
    assert (await failure(stack.call("ModelInfer", ask("shifted"))))[1] == "MODEL_NOT_SERVED"
    unknown = stack.call("ModelInfer", ask("shifted", model_version="c"))
    assert (await failure(unknown))[1] == "UNKNOWN_MODEL_VERSION"


async def test_a_stream_survives_errors_and_keeps_the_order(stack: Stack) -> None:
    sent = [ask(id="a"), ask("nobody", id="b"), ask(array=row(1, 2), id="c"), ask(id="d")]

    async def requests() -> AsyncIterator[Any]:
        for request in sent:
            yield request

    got = [answer async for answer in stack.stream(requests())]

    assert [answer.infer_response.id for answer in got] == ["a", "b", "c", "d"]
    reasons = [answer.infer_response.parameters["error_reason"].string_param for answer in got]
    assert reasons == ["", "UNKNOWN_MODEL", "INVALID_TOOL_INPUT", ""]
    assert [bool(answer.error_message) for answer in got] == [False, True, True, False]


async def test_a_stream_is_read_no_further_than_it_is_answered(stack: Stack) -> None:
    """Requests that nobody takes the answers of do not pile up in the service."""
    await stack.publish("counter", endless(), "production")
    sent = 0
    spin = pb.ModelInferRequest(model_name="counter", id="x" * 20_000)
    spin.inputs.add(name="times", datatype="INT64", shape=[])
    spin.raw_input_contents.append(np.array(10**12, np.int64).tobytes())

    async def requests() -> AsyncIterator[Any]:
        nonlocal sent
        while True:
            yield spin
            sent += 1
            await asyncio.sleep(0)

    call = stack.stream(requests())
    reading = asyncio.ensure_future(call.read())
    before = -1
    while before != sent or not sent:
        before = sent
        await asyncio.sleep(0.3)
    reading.cancel()
    call.cancel()

    assert sent < 5_000


async def test_a_deadline_stops_a_model_that_nothing_else_stops(stack: Stack) -> None:
    await stack.publish("spinner", endless(), "production")
    request = pb.ModelInferRequest(model_name="spinner")
    request.inputs.add(name="times", datatype="INT64", shape=[])
    request.raw_input_contents.append(np.array(10**12, np.int64).tobytes())
    late = await failure(stack.call("ModelInfer", request, timeout=0.6))
    request.raw_input_contents[0] = np.array(5, np.int64).tobytes()
    again = await stack.call("ModelInfer", request)
    config = (await stack.call("ModelConfig", name="spinner")).config

    assert late[:2] == (ErrorKind.DEADLINE_EXCEEDED, "TOOL_TIMEOUT")
    assert late[2]["phase"] == "run"
    assert np.frombuffer(again.raw_output_contents[0], np.float32).tolist() == [5]
    assert config.parameters["strategy"].string_value == "child"


async def test_a_request_that_waits_longer_than_it_says_is_not_started(stack: Stack) -> None:
    await stack.publish("busy", endless(), "production")
    spin = pb.ModelInferRequest(model_name="busy")
    spin.inputs.add(name="times", datatype="INT64", shape=[])
    spin.raw_input_contents.append(np.array(10**12, np.int64).tobytes())
    running_one = asyncio.ensure_future(stack.call("ModelInfer", spin))
    await asyncio.sleep(0.3)
    spin.parameters["timeout"].int64_param = 50_000
    late = await failure(stack.call("ModelInfer", spin))
    running_one.cancel()
    await asyncio.gather(running_one, return_exceptions=True)

    assert late[:2] == (ErrorKind.DEADLINE_EXCEEDED, "TOOL_TIMEOUT")
    assert (late[2]["phase"], late[2]["timeout_s"]) == ("queue", "0.05")


async def test_unloading_holds_for_the_tool_as_well(stack: Stack) -> None:
    await stack.publish("resting", scores(), "production")
    stub = agent_service_pb2_grpc.AgentServiceStub(stack.channel())
    arguments = Struct()
    arguments.update({"input": [[0, 0, 1, 0]]})
    request = agent_pb.DispatchRequest(tool="tools/resting")
    request.payload.add().json.CopyFrom(arguments)
    first = await stub.Dispatch(request)
    await stack.call("RepositoryModelUnload", model_name="resting")
    refused = await failure(stub.Dispatch(request))
    index = await stack.call("RepositoryIndex")
    state = {item.name: (item.state, item.reason) for item in index.models}["resting"]
    await stack.call("RepositoryModelLoad", model_name="resting")
    again = await stub.Dispatch(request)

    assert refused[:2] == (ErrorKind.FAILED_PRECONDITION, "MODEL_UNLOADED")
    assert state == ("UNAVAILABLE", "unloaded")
    assert first.result[0].json["labels"][0] == again.result[0].json["labels"][0] == "blue"


async def test_answers_belong_to_their_requests_under_load(stack: Stack) -> None:
    await stack.publish("deep", dense([64, 512, 512, 8]), "production")
    random = np.random.default_rng(1)
    inputs = [random.random((1 + i % 5, 64)).astype(np.float32) for i in range(80)]

    async def one(array: Any) -> list[list[float]]:
        return outputs(await stack.call("ModelInfer", ask("deep", array)))

    alone = [await one(array) for array in inputs]
    together = await asyncio.gather(*(one(array) for array in inputs))

    assert together == alone


async def test_the_version_is_swapped_under_load_without_a_failed_call(stack: Stack) -> None:
    await stack.publish("swapped", scores(), "production", version="a")
    await stack.publish("swapped", scores(1), version="b")
    stub = model_service_pb2_grpc.ModelServiceStub(stack.channel("admin"))
    stop, seen = asyncio.Event(), set()

    async def caller() -> int:
        calls = 0
        while not stop.is_set():
            answer = await stack.call("ModelInfer", ask("swapped"))
            seen.add((answer.model_version, tuple(outputs(answer)[0])))
            calls += 1
        return calls

    callers = [asyncio.create_task(caller()) for _ in range(8)]
    for version in ("b", "a") * 5:
        await stub.SetAlias(
            model_pb.SetAliasRequest(model="models/swapped", alias="production", version=version)
        )
        await asyncio.sleep(0.02)
    stop.set()
    calls = await asyncio.gather(*callers)

    assert min(calls) > 0
    assert seen == {("a", (1, 0, 0)), ("b", (0, 1, 0))}


async def test_a_model_that_made_room_comes_back_for_the_protocol_too(stack: Stack) -> None:
    await stack.publish("evicted", scores(), "production")
    before = outputs(await stack.call("ModelInfer", ask("evicted")))
    await stack.call("RepositoryModelUnload", model_name="evicted")
    await stack.call("RepositoryModelLoad", model_name="evicted")
    statistics = (await stack.call("ModelStatistics", name="evicted")).model_stats[0]

    assert outputs(await stack.call("ModelInfer", ask("evicted"))) == before
    assert statistics.memory_usage[0].byte_size > 0
    assert statistics.inference_stats.success.count == 1
