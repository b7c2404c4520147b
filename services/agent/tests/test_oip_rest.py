"""The Open Inference Protocol as REST: the same answers, raw bytes, errors and access rules."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import numpy as np
import pytest
import pytest_asyncio
from services.agent.tests.oip_agent import Stack, row, running_oip

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    async with running_oip(tmp_path_factory.mktemp("oip")) as made:
        yield made


async def test_rest_has_the_same_answers(stack: Stack) -> None:
    body = {
        "id": "9",
        "inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 4], "data": [[0, 0, 3, 0]]}],
    }
    answer = (await stack.rest("POST", "/v2/models/colours/infer", json=body)).json()
    metadata = (await stack.rest("GET", "/v2/models/colours/versions/v1")).json()
    ready = await stack.rest("GET", "/v2/models/colours/ready")
    missing = await stack.rest("GET", "/v2/models/nobody/ready")
    server = (await stack.rest("GET", "/v2")).json()
    live = (await stack.rest("GET", "/v2/health/live")).json()
    config = (await stack.rest("GET", "/v2/models/colours/config")).json()
    stats = (await stack.rest("GET", "/v2/models/colours/stats")).json()
    index = (await stack.rest("POST", "/v2/repository/index", json={})).json()

    assert answer == {
        "model_name": "colours",
        "model_version": "v1",
        "id": "9",
        "outputs": [{"name": "scores", "datatype": "FP32", "shape": [1, 3], "data": [0.0, 0.0, 3.0]}],
    }
    assert metadata["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 4]}]
    assert (ready.status_code, missing.status_code, live) == (200, 404, {"live": True})
    assert server["name"] == "aegis-agent"
    assert (config["input"][0]["data_type"], config["max_batch_size"]) == ("TYPE_FP32", 32)
    assert stats["model_stats"][0]["inference_stats"]["success"]["count"] >= 1
    assert {"name": "colours", "version": "v1", "state": "READY", "reason": ""} in index


async def test_rest_carries_raw_bytes_both_ways(stack: Stack) -> None:
    size = {"binary_data_size": 16}
    head = json.dumps(
        {
            "inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 4], "parameters": size}],
            "outputs": [{"name": "scores", "parameters": {"binary_data": True}}],
        }
    ).encode()
    answer = await stack.rest(
        "POST",
        "/v2/models/colours/infer",
        content=head + row(0, 5, 0, 0).tobytes(),
        headers={"Inference-Header-Content-Length": str(len(head))},
    )
    length = int(answer.headers["inference-header-content-length"])
    told = json.loads(answer.content[:length])

    assert told["outputs"][0]["parameters"] == {"binary_data_size": 12}
    assert np.frombuffer(answer.content[length:], np.float32).tolist() == [0, 5, 0]


@pytest.mark.parametrize(
    ("body", "status", "path"),
    [
        (b"{", 400, "body"),
        (b"[]", 400, "body"),
        (b'{"inputs": 1}', 400, "inputs"),
        (b'{"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 4]}]}', 400, "inputs[0].data"),
        (b'{"inputs": [{"name": 1, "datatype": "FP32", "shape": [1, 4]}]}', 400, "inputs[0].name"),
        (
            b'{"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 4], "data": [[1], [1, 2, 3]]}]}',
            400,
            "input",
        ),
        (
            b'{"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 4], '
            b'"parameters": {"binary_data_size": 16}}]}',
            400,
            "inputs[0].parameters.binary_data_size",
        ),
    ],
)
async def test_rest_names_what_is_wrong(stack: Stack, body: bytes, status: int, path: str) -> None:
    answer = await stack.rest("POST", "/v2/models/colours/infer", content=body)
    told = answer.json()

    assert (answer.status_code, told["details"][0]["metadata"]["path"]) == (status, path)
    assert told["error"]


@pytest.mark.parametrize("path", ["models/colours/infer", "repository/index"])
async def test_rest_does_not_read_what_would_take_long(stack: Stack, path: str) -> None:
    rows = b"[" + b",".join([b"[]"] * 150_000) + b"]"
    body = b'{"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 4], "data": ' + rows + b"}]}"
    answer = await stack.rest("POST", f"/v2/{path}", content=body)

    assert 400 == answer.status_code
    assert "lists and objects; send large data as raw bytes" in answer.json()["error"]


async def test_rest_obeys_the_access_rules_of_its_rpcs(stack: Stack) -> None:
    refused = await stack.rest("POST", "/v2/repository/models/colours/unload", account="viewer")
    unknown = await stack.rest("GET", "/v2/models/colours", account="blue")

    assert (refused.status_code, unknown.status_code) == (403, 404)
