"""Requests of the inference protocol that are wrong, odd or hostile: each gets its own precise answer."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
import pytest
import pytest_asyncio
from onnx import TensorProto
from services.agent.tests.oip_agent import Stack, ask, failure, row, running_oip

from aegis_agent.adapters.oip import messages as pb
from aegis_common.errors import ErrorKind
from oip_support import SERVICE, added, identity, infer_request

pytestmark = pytest.mark.asyncio(loop_scope="module")

PROTOCOL, TENSOR = "INVALID_INFERENCE_REQUEST", "INVALID_TOOL_INPUT"
FLOATS = {"name": "input", "datatype": "FP32", "shape": [1, 4]}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    async with running_oip(tmp_path_factory.mktemp("oip")) as made:
        await made.publish("floats", identity(TensorProto.FLOAT, ["n", 4]), "production")
        await made.publish("longs", identity(TensorProto.UINT64, ["n"]), "production")
        yield made


def changed(change: Callable[[Any], object], model: str = "colours") -> Any:
    request = ask(model)
    change(request)
    return request


def parameter(name: str, kind: str, value: object) -> Callable[[Any], object]:
    return lambda request: setattr(request.parameters[name], f"{kind}_param", value)


def shape(*sizes: int) -> Callable[[Any], object]:
    def change(request: Any) -> None:
        request.inputs[0].shape[:] = sizes

    return change


def raw(*contents: bytes) -> Callable[[Any], object]:
    def change(request: Any) -> None:
        request.raw_input_contents[:] = contents

    return change


def twice(request: Any) -> None:
    request.inputs.append(request.inputs[0])
    request.raw_input_contents.append(request.raw_input_contents[0])


def output(kind: str, name: str, value: object) -> Callable[[Any], object]:
    def change(request: Any) -> None:
        setattr(request.outputs.add(name="scores").parameters[name], f"{kind}_param", value)

    return change


def without_inputs(request: Any) -> None:
    del request.inputs[:], request.raw_input_contents[:]


BAD = [
    (parameter("timeout", "int64", -1), PROTOCOL, "parameters.timeout"),
    (parameter("timeout", "uint64", 2**64 - 1), PROTOCOL, "parameters.timeout"),
    (parameter("timeout", "double", float("nan")), PROTOCOL, "parameters.timeout"),
    (parameter("timeout", "string", "9" * 5_000), PROTOCOL, "parameters.timeout"),
    (parameter("timeout", "string", "-5"), PROTOCOL, "parameters.timeout"),
    (parameter("timeout", "bool", True), PROTOCOL, "parameters.timeout"),
    (parameter("priority", "int64", -(2**63)), PROTOCOL, "parameters.priority"),
    (parameter("priority", "string", "highest"), PROTOCOL, "parameters.priority"),
    (parameter("priority", "string", "²"), PROTOCOL, "parameters.priority"),
    (parameter("binary_data_output", "string", "false"), PROTOCOL, "parameters.binary_data_output"),
    (output("int64", "classification", -1), PROTOCOL, "outputs[0].parameters.classification"),
    (output("string", "classification", "3"), PROTOCOL, "outputs[0].parameters.classification"),
    (output("int64", "binary_data", 1), PROTOCOL, "outputs[0].parameters.binary_data"),
    (output("string", "shared_memory_region", "a"), PROTOCOL, "outputs[0]"),
    (lambda r: r.outputs.add(name="x" * 100_000), PROTOCOL, "outputs[0]"),
    (lambda r: r.outputs.extend([r.InferRequestedOutputTensor(name="scores")] * 2), PROTOCOL, "outputs[1]"),
    (raw(), TENSOR, "input"),
    (raw(b""), TENSOR, "input"),
    (raw(b"x" * 15), TENSOR, "input"),
    (raw(b"x" * 16, b"x" * 16), PROTOCOL, "raw_input_contents"),
    (shape(), TENSOR, "input"),
    (shape(4), TENSOR, "input"),
    (shape(-1, 4), TENSOR, "input"),
    (shape(-1, -4), TENSOR, "input"),
    (shape(0, 4), TENSOR, "input"),
    (shape(2**62, 4), TENSOR, "input"),
    (shape(2**32, 2**32), TENSOR, "input"),
    (shape(*[1] * 100, 4), TENSOR, "input"),
    (shape(*[2**62] * 20_000), TENSOR, "input"),
    (twice, PROTOCOL, "inputs"),
    (without_inputs, TENSOR, "input"),
    (lambda r: setattr(r.inputs[0], "datatype", "BF16"), TENSOR, "input"),
    (lambda r: setattr(r.inputs[0], "datatype", ""), TENSOR, "input"),
    (lambda r: setattr(r.inputs[0], "name", "y" * 100_000), TENSOR, "input"),
]


@pytest.mark.parametrize(("change", "reason", "path"), BAD)
async def test_a_hostile_request_is_refused_and_counted(
    stack: Stack, change: Callable[[Any], object], reason: str, path: str
) -> None:
    before = await counted(stack)
    kind, found, metadata = await failure(stack.call("ModelInfer", changed(change)))
    after = await counted(stack)

    assert (kind, found) == (ErrorKind.INVALID_ARGUMENT, reason)
    assert metadata["path"].split(", ")[0] == path
    assert (after["fail"] - before["fail"], after["success"] - before["success"]) == (1, 0)


async def counted(stack: Stack, model: str = "colours") -> dict[str, int]:
    [found] = (await stack.call("ModelStatistics", name=model)).model_stats
    return {name: getattr(found.inference_stats, name).count for name in ("success", "fail")}


async def test_one_bad_request_of_a_stream_harms_no_other(stack: Stack) -> None:
    bad = [changed(change) for change, _, _ in BAD]
    sent = [request for index, item in enumerate(bad) for request in (item, ask(id=f"good {index}"))]

    async def requests() -> AsyncIterator[Any]:
        for request in sent:
            yield request

    answers = [answer async for answer in stack.stream(requests())]

    assert len(sent) == len(answers)
    assert all(answer.error_message for answer in answers[::2])
    assert [f"good {index}" for index in range(len(bad))] == [
        item.infer_response.id for item in answers[1::2]
    ]
    assert not any(answer.error_message for answer in answers[1::2])


async def test_bytes_that_are_no_message_end_a_stream_after_the_answers_before_them(stack: Stack) -> None:
    call = stack.channel().stream_stream(f"/{SERVICE}/ModelStreamInfer")(timeout=60)
    await call.write(ask(id="1").SerializeToString())
    await call.write(b"\x0a\xff")
    first = pb.ModelStreamInferResponse.FromString(await call.read())
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()

    assert ("1", "") == (first.infer_response.id, first.error_message)
    assert grpc.StatusCode.INVALID_ARGUMENT is caught.value.code()


async def test_a_version_that_is_not_there_is_told_with_those_that_are(stack: Stack) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stack.call("ModelInfer", ask(model_version="v9"))
    ready = await stack.call("ModelReady", name="colours", version="v9")
    metadata = await failure(stack.call("ModelMetadata", name="colours", version="v9"))

    assert "there are v1" in str(caught.value.details())
    assert (ready.ready, metadata[:2]) == (False, (ErrorKind.NOT_FOUND, "UNKNOWN_MODEL_VERSION"))


def texts(*values: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(value)) + value for value in values)


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        (b"\x01", "cut off"),
        (texts(b"a", b"b", b"c")[:-1], "left"),
        (struct.pack("<I", 0xFFFFFFFF) + b"abc", "4294967295 bytes"),
        (texts(b"a", b"b"), "2 elements"),
        (texts(b"a", b"b", b"c", b"d"), "4 elements"),
        (texts(b"a", b"\xff\xfe", b"c"), "UTF-8"),
        (texts(*[b""] * 200_000), "200000 elements"),
    ],
)
async def test_lengths_of_texts_that_do_not_add_up_are_refused(stack: Stack, data: bytes, rule: str) -> None:
    request = pb.ModelInferRequest(model_name="words", raw_input_contents=[data])
    request.inputs.add(name="input", datatype="BYTES", shape=[1, 3])

    with pytest.raises(grpc.aio.AioRpcError, match=rule) as caught:
        await stack.call("ModelInfer", request)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("values", [[b"", b"a" * 70_000, "ü€".encode()], [b"a\x00b", b"\x00", b"\n"]])
async def test_texts_come_back_as_they_were(stack: Stack, values: list[bytes]) -> None:
    request = pb.ModelInferRequest(model_name="words", raw_input_contents=[texts(*values)])
    request.inputs.add(name="input", datatype="BYTES", shape=[1, 3])

    assert texts(*values) == (await stack.call("ModelInfer", request)).raw_output_contents[0]


BIG = [0, 1, 2**63 - 1, 2**63, 2**64 - 1]


async def test_whole_numbers_beyond_63_bits_stay_exact(stack: Stack) -> None:
    typed = pb.ModelInferRequest(model_name="longs")
    typed.inputs.add(name="input", datatype="UINT64", shape=[5]).contents.uint64_contents.extend(BIG)
    typed.parameters["binary_data_output"].bool_param = False
    body = {"inputs": [{"name": "input", "datatype": "UINT64", "shape": [5], "data": BIG}]}
    rest = await stack.rest("POST", "/v2/models/longs/infer", json=body)
    answer = await stack.call("ModelInfer", typed)

    assert BIG == list(answer.outputs[0].contents.uint64_contents)
    assert BIG == rest.json()["outputs"][0]["data"]


@pytest.mark.parametrize(
    "data", [[-1], [2**64], [10**400], [1, 2**64], [1.5], [1e3], ["1"], [None], [{}], [[1], 2], [[[]]], []]
)
async def test_what_is_no_whole_number_of_64_bits_is_refused(stack: Stack, data: list[object]) -> None:
    body = {"inputs": [{"name": "input", "datatype": "UINT64", "shape": [1], "data": data}]}
    answer = await stack.rest("POST", "/v2/models/longs/infer", json=body)

    assert (400, "input") == (answer.status_code, answer.json()["details"][0]["metadata"]["path"])


ODD = np.array([[np.nan, np.inf, -np.inf, -0.0]], np.float32)


async def test_infinities_and_nan_travel_raw_and_never_as_json(stack: Stack) -> None:
    over_grpc = await stack.call("ModelInfer", infer_request("floats", "input", ODD, "FP32"))
    size = {"binary_data_size": 16}

    async def rest(**asked: object) -> Any:
        head = json.dumps({"inputs": [{**FLOATS, "parameters": size}], **asked}).encode()
        headers = {"Inference-Header-Content-Length": str(len(head))}
        path = "/v2/models/floats/infer"
        return await stack.rest("POST", path, content=head + ODD.tobytes(), headers=headers)

    refused = await rest()
    binary = await rest(parameters={"binary_data_output": True})
    length = int(binary.headers["inference-header-content-length"])

    assert ODD.tobytes() == over_grpc.raw_output_contents[0] == binary.content[length:]
    assert "NaN or infinity" in refused.json()["error"]
    assert "binary_data" in refused.json()["error"]


@pytest.mark.parametrize(
    ("data", "what"),
    [
        ("[NaN, 1, 1, 1]", "NaN is no number of JSON"),
        ("[1, -Infinity, 1, 1]", "-Infinity is no number of JSON"),
        ("[1, 1e999, 1, 1]", "larger than any number"),
        ("[1, 1e39, 1, 1]", "does not fit FP32"),
        (f"[1, {10**40}, 1, 1]", "does not fit FP32"),
        (f"[1, {'9' * 5000}, 1, 1]", "no JSON"),
        ("[1, true, null, 1]", "not all numbers"),
        ("[" * 5_000 + "]" * 5_000, "inside each other"),
        ("[" * 50 + "1" + "]" * 50, "input"),
        ('["1", "2", "3", "4"]', "not all numbers"),
    ],
)
async def test_what_is_no_number_of_json_or_of_the_type_is_refused(
    stack: Stack, data: str, what: str
) -> None:
    body = json.dumps({"inputs": [{**FLOATS, "data": "HERE"}]}).replace('"HERE"', data)
    answer = await stack.rest("POST", "/v2/models/floats/infer", content=body.encode())

    assert 400 == answer.status_code
    assert what in answer.json()["error"]


async def test_whole_numbers_of_any_size_are_floats_where_floats_are_taken(stack: Stack) -> None:
    body = {"inputs": [{**FLOATS, "data": [1, 2**63, 2**70, 0.5]}]}
    answer = await stack.rest("POST", "/v2/models/floats/infer", json=body)

    assert [1.0, 2.0**63, 2.0**70, 0.5] == answer.json()["outputs"][0]["data"]


@pytest.mark.parametrize("text", ['"\\ud800"', '"a\\uDFFFb"'])
@pytest.mark.parametrize("place", ["id", "name", "data"])
async def test_half_characters_are_refused_wherever_they_stand(stack: Stack, text: str, place: str) -> None:
    told = {"id": "1", "name": "input", "data": "a", place: "HERE"}
    tensor = {"name": told["name"], "datatype": "BYTES", "shape": [1, 3], "data": [told["data"], "b", "c"]}
    body = json.dumps({"id": told["id"], "inputs": [tensor]}).replace('"HERE"', text)
    answer = await stack.rest("POST", "/v2/models/words/infer", content=body.encode())

    assert (400, "body") == (answer.status_code, answer.json()["details"][0]["metadata"]["path"])


async def test_characters_beyond_16_bits_are_none_of_those(stack: Stack) -> None:
    body = b'{"id": "\\ud83d\\ude00", "inputs": [{"name": "input", "datatype": "BYTES", "shape": [1, 3], '
    body += '"data": ["\\ud83d\\ude00", "\U0001f600", ""]}]}'.encode()
    answer = await stack.rest("POST", "/v2/models/words/infer", content=body)

    assert ["\U0001f600", "\U0001f600", ""] == answer.json()["outputs"][0]["data"]
    assert "\U0001f600" == answer.json()["id"]


@pytest.mark.parametrize("nested", [[["a"], ["b", ["c"]]], "a", [1, "b", "c"], [None]])
async def test_texts_in_json_are_texts_at_any_depth(stack: Stack, nested: object) -> None:
    body = {"inputs": [{"name": "input", "datatype": "BYTES", "shape": [1, 3], "data": nested}]}
    answer = await stack.rest("POST", "/v2/models/words/infer", json=body)

    assert answer.status_code == (200 if nested == [["a"], ["b", ["c"]]] else 400)


@pytest.mark.parametrize("length", ["-1", "1e3", "", "99999", "9" * 5_000, "²", "+5", "0x5"])
async def test_a_length_of_the_json_that_is_none_is_refused(stack: Stack, length: str) -> None:
    headers = {"Inference-Header-Content-Length": length.encode()}
    answer = await stack.rest("POST", "/v2/models/colours/infer", content=b"{}", headers=headers)

    assert 400 == answer.status_code
    assert "inference-header-content-length" in answer.json()["error"]


@pytest.mark.parametrize("size", [-1, 15, 17, 2**70, True, 1.0, "16", None])
async def test_sizes_of_raw_bytes_that_do_not_add_up_are_refused(stack: Stack, size: object) -> None:
    head = json.dumps({"inputs": [{**FLOATS, "parameters": {"binary_data_size": size}}]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    content = head + row().tobytes()
    answer = await stack.rest("POST", "/v2/models/colours/infer", content=content, headers=headers)

    assert 400 == answer.status_code


async def test_half_floats_travel_raw_and_as_json_numbers(stack: Stack) -> None:
    halves = np.array([[0.5, 65504, -2.0]], np.float16)
    over_grpc = await stack.call("ModelInfer", infer_request("halves", "input", halves, "FP16"))
    tensor = {"name": "input", "datatype": "FP16", "shape": [1, 3], "data": halves.tolist()}
    rest = await stack.rest("POST", "/v2/models/halves/infer", json={"inputs": [tensor]})
    tensor["data"] = [0.5, 65520, -2.0]
    larger = await stack.rest("POST", "/v2/models/halves/infer", json={"inputs": [tensor]})
    typed = pb.ModelInferRequest(model_name="halves")
    typed.inputs.add(name="input", datatype="FP16", shape=[1, 3]).contents.fp32_contents.extend([1, 2, 3])
    asked = infer_request("halves", "input", halves, "FP16")
    asked.parameters["binary_data_output"].bool_param = False

    assert halves.tobytes() == over_grpc.raw_output_contents[0]
    assert [0.5, 65504, -2.0] == rest.json()["outputs"][0]["data"]
    assert "does not fit FP16" in larger.json()["error"]
    for request in (typed, asked):
        with pytest.raises(grpc.aio.AioRpcError, match="raw"):
            await stack.call("ModelInfer", request)


async def test_a_model_of_bfloat16_is_refused_when_it_is_published(stack: Stack) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="bfloat16"):
        await stack.publish("brains", identity(TensorProto.BFLOAT16, ["n", 4]), "production")


async def test_a_run_that_fails_is_counted_once(stack: Stack) -> None:
    await stack.publish("sum", added(), "production")
    request = pb.ModelInferRequest(model_name="sum")
    for name, rows in (("a", 2), ("b", 3)):
        request.inputs.add(name=name, datatype="FP32", shape=[rows, 2])
        request.raw_input_contents.append(np.ones((rows, 2), np.float32).tobytes())
    reason = (await failure(stack.call("ModelInfer", request)))[1]

    assert "TOOL_FAILED" == reason
    assert {"success": 0, "fail": 1} == await counted(stack, "sum")


async def test_a_draining_replica_is_not_ready(tmp_path: Path) -> None:
    leave: asyncio.Event = asyncio.Event()
    made: asyncio.Future[Stack] = asyncio.get_running_loop().create_future()

    async def serve() -> None:
        async with running_oip(tmp_path) as stack:
            made.set_result(stack)
            await leave.wait()

    serving = asyncio.create_task(serve())
    first = await made
    stack = Stack(first.mesh, first.port, first.http_port, first.store)

    async def look() -> list[object]:
        ready = await stack.call("ServerReady"), await stack.call("ModelReady", name="colours")
        rest = [await stack.rest("GET", f"/v2/{path}") for path in ("health/ready", "models/colours/ready")]
        return [one.ready for one in ready] + [(one.status_code, one.json()["ready"]) for one in rest]

    before = await look()
    leave.set()
    seen = before
    while seen == before:
        seen = await look()
    seen = await look()  # the one before may have seen both
    await stack.close()
    await serving

    assert [True, True, (200, True), (200, True)] == before
    assert [False, False, (503, False), (404, False)] == seen
