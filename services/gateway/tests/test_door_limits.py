"""How long and how large a call may be at a real Envoy, and how it says that it is refused."""

from __future__ import annotations

import base64
import json
from typing import Any

import grpc
import pytest

from aegis.agent.v1 import agent_service_pb2 as agent
from aegis.agent.v1 import agent_service_pb2_grpc as agent_grpc
from aegis.agent.v1.part_pb2 import Part

ZONES = "/v1/zones"
DISPATCH = "/v1/tools/echo:dispatch"


@pytest.mark.parametrize(
    ("path", "size", "status"),
    [
        ("/v1/zones/GB:checkSchedule", 3 << 20, 413),
        (DISPATCH, 3 << 20, 200),
        (DISPATCH, 13 << 20, 413),
        ("/v1/tools:batchDispatch", 13 << 20, 413),
    ],
)
def test_bodies_have_a_limit_that_is_larger_where_bytes_travel(
    stack: Any, path: str, size: int, status: int
) -> None:
    content = json.dumps({"payload": [{"inlineBytes": base64.b64encode(b"x" * (size * 3 // 4)).decode()}]})
    answer = stack.people(stack.mesh.token()).post(path, content=content)

    assert answer.status_code == status


def test_no_content_type_gets_a_large_json_body_past_the_limit(stack: Any) -> None:
    content = b'{"zone": "' + b"x" * (3 << 20) + b'"}'
    door = stack.machines()
    kinds = ("application/json", "application/grpc", "application/grpc-web+proto")
    by_http = [
        door.post("/v1/zones/GB:checkSchedule", content=content, headers={"content-type": k}) for k in kinds
    ]
    by_grpc = door.post(
        "/aegis.carbon.v1.CarbonService/CheckSchedule",
        content=content,
        headers={"content-type": "application/json"},
    )

    assert by_http[0].status_code == 413
    assert by_http[1].headers["grpc-status"] != "0"
    assert by_http[2].status_code in {403, 413}
    assert by_grpc.status_code in {404, 413}


def test_two_tokens_are_one_too_many(stack: Any) -> None:
    token = stack.mesh.token()
    headers = [("authorization", f"Bearer {token}"), ("authorization", f"Bearer {token}x")]

    assert stack.people().get(ZONES, headers=headers).status_code == 401


def test_native_grpc_has_the_services_own_message_limit(stack: Any) -> None:
    request = agent.DispatchRequest(tool="tools/echo", payload=[Part(inline_bytes=b"x" * (10 << 20))])
    with stack.machines_channel() as calls, pytest.raises(grpc.RpcError) as refused:
        agent_grpc.AgentServiceStub(calls).Dispatch(request)

    error: Any = refused.value
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_method_has_its_default_deadline_and_its_cap(stack: Any) -> None:
    door = stack.machines()
    door.post(DISPATCH, json={})
    default = stack.seen.time_left["Dispatch"]
    door.post(DISPATCH, json={}, headers={"grpc-timeout": "100S"})
    asked = stack.seen.time_left["Dispatch"]
    door.get("/v1/tools", headers={"grpc-timeout": "1H"})
    capped = stack.seen.time_left["ListTools"]

    assert 20 < default <= 30
    assert 90 < asked <= 100
    assert 50 < capped <= 60


def test_a_deadline_that_passes_is_504(stack: Any) -> None:
    answer = stack.machines().post("/v1/tools/slow:dispatch", json={}, headers={"grpc-timeout": "300m"})

    assert (answer.status_code, answer.json()["code"]) == (504, 4)


def test_only_methods_without_effects_are_retried(stack: Any) -> None:
    before = dict(stack.seen.calls)
    door = stack.machines()
    read = door.post("/v1/zones/DOWN:checkSchedule", json={})
    write = door.post("/v1/tools/down:dispatch", json={})

    assert (read.status_code, write.status_code) == (503, 503)
    assert stack.seen.calls["CheckSchedule"] - before.get("CheckSchedule", 0) == 3
    assert stack.seen.calls["Dispatch"] - before.get("Dispatch", 0) == 1


# What is refused, and how it says so


@pytest.mark.parametrize(
    ("path", "status"),
    [("/v1/zones?bogus=1", 400), ("/v1/zones?pageSize=many", 400), ("/v1/nowhere", 404), ("/elsewhere", 404)],
)
def test_what_does_not_exist_is_refused_as_a_status_in_json(stack: Any, path: str, status: int) -> None:
    answer = stack.machines().get(path)

    assert answer.status_code == status
    assert set(answer.json()) == {"code", "message", "details"}


def test_malformed_json_is_400(stack: Any) -> None:
    answer = stack.machines().post(DISPATCH, content="{", headers={"content-type": "application/json"})

    assert (answer.status_code, answer.json()["code"]) == (400, 3)


def test_a_services_error_keeps_its_details_in_json(stack: Any) -> None:
    answer = stack.machines().get("/v1/zones/XX/intensity")

    assert answer.status_code == 404
    assert answer.json()["details"][0]["reason"] == "UNKNOWN_ZONE"
