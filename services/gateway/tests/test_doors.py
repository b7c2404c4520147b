"""What a real Envoy lets in, where it sends it, and what it says when it refuses."""

from __future__ import annotations

import json
import ssl
import time
from datetime import timedelta
from typing import Any

import grpc
import httpx
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from aegis.carbon.v1 import carbon_service_pb2 as carbon
from aegis.carbon.v1 import carbon_service_pb2_grpc as carbon_grpc
from aegis.fl.v1 import round_service_pb2 as rounds
from aegis.fl.v1 import round_service_pb2_grpc as rounds_grpc

ZONES = "/v1/zones"
DISPATCH = "/v1/tools/echo:dispatch"


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


# Four protocols, one port


def test_native_grpc_reaches_the_service_as_the_gateway_with_the_callers_certificate_named(
    stack: Any,
) -> None:
    with stack.machines_channel() as calls:
        answer = carbon_grpc.CarbonServiceStub(calls).ListZones(carbon.ListZonesRequest(page_size=7))

    forwarded = stack.seen.metadata["ListZones"]["x-forwarded-client-cert"]
    assert answer.next_page_token == "7"
    assert f"URI={stack.mesh.spiffe_id('sdk')}" in forwarded


def test_json_is_transcoded_with_its_query_parameters_on_both_doors(stack: Any) -> None:
    answers = [
        door.get(ZONES, params={"pageSize": 3})
        for door in (stack.machines(), stack.people(stack.mesh.token()))
    ]

    assert [answer.status_code for answer in answers] == [200, 200]
    assert {answer.json()["nextPageToken"] for answer in answers} == {"3"}


def test_grpc_web_gets_its_status_in_the_body(stack: Any) -> None:
    message = carbon.ListZonesRequest(page_size=5).SerializeToString()
    answer = stack.people(stack.mesh.token()).post(
        "/aegis.carbon.v1.CarbonService/ListZones",
        content=b"\x00" + len(message).to_bytes(4, "big") + message,
        headers={"content-type": "application/grpc-web+proto", "x-grpc-web": "1"},
    )

    size = int.from_bytes(answer.content[1:5], "big")
    assert answer.status_code == 200
    assert carbon.ListZonesResponse.FromString(answer.content[5 : 5 + size]).next_page_token == "5"
    assert b"grpc-status:0" in answer.content[5 + size :]


def test_reflection_answers_for_all_services_on_the_same_port(stack: Any) -> None:
    with stack.people_channel() as calls:
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(calls)
        answer = next(iter(stub.ServerReflectionInfo(iter([request]), metadata=bearer(stack.mesh.token()))))

    names = {service.name for service in answer.list_services_response.service}
    assert {
        "aegis.agent.v1.AgentService",
        "aegis.carbon.v1.CarbonService",
        "aegis.fl.v1.TrainingService",
    } <= names


def test_a_stream_comes_as_json_lines_or_as_events(stack: Any) -> None:
    door = stack.machines()
    lines = door.get("/v1/trainingRuns/r1:watch")
    events = door.get("/v1/trainingRuns/r1:watch", headers={"accept": "text/event-stream"})

    assert [list(json.loads(line))[-1] for line in lines.text.splitlines()] == ["stateChange", "end"]
    assert events.headers["content-type"] == "text/event-stream"
    assert [line[:5] for line in events.text.splitlines() if line] == ["data:", "data:"]


# Who is let in


def test_without_a_client_certificate_the_machines_port_refuses_the_handshake(stack: Any) -> None:
    context = ssl.create_default_context(cafile=str(stack.mesh.tls("gateway").bundle))
    url = f"https://{stack.gateway.settings.machines_listen}/healthz"

    with pytest.raises(httpx.TransportError):
        httpx.get(url, verify=context, trust_env=False)


def test_a_certificate_without_the_role_is_refused_and_one_with_it_is_not(stack: Any) -> None:
    answers = {
        who: stack.machines(who).post(DISPATCH, json={}).status_code for who in ("viewer", "sdk", "carbon")
    }

    assert answers == {"viewer": 403, "sdk": 200, "carbon": 403}


@pytest.mark.parametrize(
    ("role", "status"), [("viewer", 403), ("operator", 200), ("trainer", 200), ("node", 403)]
)
def test_a_persons_roles_decide(stack: Any, role: str, status: int) -> None:
    answer = stack.people(stack.mesh.token(roles=[role])).post(DISPATCH, json={})

    assert answer.status_code == status


def test_nobody_gets_in_without_a_token_on_the_peoples_port(stack: Any) -> None:
    answer = stack.people().get(ZONES)

    assert (answer.status_code, answer.json()["code"]) == (401, 16)
    assert answer.json()["details"][0]["reason"] == "NO_CREDENTIALS"


@pytest.mark.parametrize("value", ["Basic dXNlcjpzZWNyZXQ=", "bearer", ""])
def test_an_authorization_that_is_no_bearer_token_counts_as_none(stack: Any, value: str) -> None:
    answer = stack.people().get(ZONES, headers={"authorization": value})

    assert (answer.status_code, answer.json()["details"][0]["reason"]) == (401, "NO_CREDENTIALS")


def test_a_token_on_the_machines_port_counts_instead_of_the_certificates_roles(stack: Any) -> None:
    more = stack.machines("viewer", stack.mesh.token(roles=["operator"])).post(DISPATCH, json={})
    less = stack.machines("sdk", stack.mesh.token(roles=["viewer"])).post(DISPATCH, json={})

    assert (more.status_code, less.status_code) == (200, 403)


@pytest.mark.parametrize(
    "claims",
    [
        {"ttl": timedelta(minutes=-10)},
        {"exp": None},
        {"iss": "https://elsewhere.test"},
    ],
    ids=["expired", "without expiry", "of another issuer"],
)
def test_a_token_that_cannot_be_accepted_is_401(stack: Any, claims: dict[str, Any]) -> None:
    answer = stack.people(stack.mesh.token(**claims)).get(ZONES)

    assert (answer.status_code, answer.json()["code"]) == (401, 16)


def test_a_garbage_token_is_401_and_native_grpc_hears_it_in_plain_words(stack: Any) -> None:
    with stack.people_channel() as calls, pytest.raises(grpc.RpcError) as refused:
        stub = carbon_grpc.CarbonServiceStub(calls)
        stub.ListZones(carbon.ListZonesRequest(), metadata=bearer("garbage"))

    error: Any = refused.value
    assert error.code() == grpc.StatusCode.UNAUTHENTICATED
    assert "{" not in error.details()


def test_the_scheme_may_be_written_in_lower_case(stack: Any) -> None:
    answer = stack.people("").get(ZONES, headers={"authorization": f"bearer {stack.mesh.token()}"})

    assert answer.status_code == 200


@pytest.mark.parametrize("door", ["machines", "people"])
def test_headers_that_no_service_would_take_are_431(stack: Any, door: str) -> None:
    answer = getattr(stack, door)().get(ZONES, headers={"x-padding": "x" * (28 << 10)})

    assert answer.status_code == 431


def test_the_token_reaches_the_service_unchanged(stack: Any) -> None:
    token = stack.mesh.token()
    stack.people(token).get("/v1/tools")

    assert stack.seen.metadata["ListTools"]["authorization"] == f"Bearer {token}"


def test_what_only_the_mesh_may_say_is_removed(stack: Any) -> None:
    forged = {
        "x-aegis-roles": "admin",
        "x-envoy-original-path": "/x",
        "aegis-on-behalf-of": "{}",
        "aegis-run-token": "t",
        "x-forwarded-client-cert": f"URI={stack.mesh.spiffe_id('admin')}",
    }
    stack.people(stack.mesh.token()).get("/v1/tools", headers=forged)
    from_people = stack.seen.metadata["ListTools"]
    stack.machines("sdk").get("/v1/tools", headers=forged)
    from_machines = stack.seen.metadata["ListTools"]

    assert not set(from_people) & (set(forged) - {"x-envoy-original-path"})
    assert from_people.get("x-envoy-original-path") != "/x"
    assert not set(from_machines) & {"x-aegis-roles", "aegis-on-behalf-of", "aegis-run-token"}
    assert "admin" not in from_machines["x-forwarded-client-cert"]


def test_mesh_internal_methods_are_not_there_even_for_an_admin(stack: Any) -> None:
    with stack.machines_channel("admin") as calls, pytest.raises(grpc.RpcError) as refused:
        rounds_grpc.RoundServiceStub(calls).AwaitRound(rounds.AwaitRoundRequest())

    error: Any = refused.value
    assert error.code() == grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize(
    "path",
    [
        "/v1/fleet/../zones",
        "//v1/tools",
        "/aegis.fl.v1.RoundService/AwaitRound",
        "/v1/tools%2Fecho",
        "/v1/%66leet/x",
    ],
)
def test_no_spelling_of_a_path_lets_a_node_out_of_its_corner(stack: Any, path: str) -> None:
    url = f"https://{stack.gateway.settings.machines_listen}{path}"
    status = stack.machines("fl-node-site-1").get(url).status_code

    assert status in {400, 403, 404, 501}


# Flower's nodes


def test_a_node_reaches_the_fleet_api_with_large_bodies_and_nobody_else_does(stack: Any) -> None:
    body = b"x" * (16 << 20)
    answers = {
        who: stack.machines(who).post(
            "/v1/fleet/push-object", content=body if who == "fl-node-site-1" else b""
        )
        for who in ("fl-node-site-1", "admin")
    }
    person = stack.people(stack.mesh.token(roles=["admin"])).post("/v1/fleet/push-object", content=b"")

    assert answers["fl-node-site-1"].text == f"/v1/fleet/push-object {len(body)}"
    assert (answers["admin"].status_code, person.status_code) == (403, 404)


@pytest.mark.parametrize("path", ["/v1/control/start-run", "/v1/runtime/pull", "/health"])
def test_the_rest_of_superlink_is_not_there(stack: Any, path: str) -> None:
    assert stack.machines("fl-node-site-1").post(path).status_code in {403, 404}


# Documents, browsers, operation


def test_the_documents_are_for_anybody_who_can_connect(stack: Any) -> None:
    door = stack.people()
    api, descriptors = door.get("/openapi.json"), door.get("/descriptors.binpb")

    assert (api.status_code, api.headers["content-type"]) == (200, "application/json")
    assert api.json()["openapi"] == "3.1.0"
    assert (descriptors.status_code, len(descriptors.content) > 100_000) == (200, True)


def test_browsers_of_a_named_origin_may_call_and_no_others(stack: Any) -> None:
    asked = {"access-control-request-method": "GET", "access-control-request-headers": "authorization"}
    door = stack.people()
    good = door.options(ZONES, headers={"origin": "https://console.aegis.test", **asked})
    bad = door.options(ZONES, headers={"origin": "https://evil.test", **asked})

    assert good.headers["access-control-allow-origin"] == "https://console.aegis.test"
    assert "access-control-allow-origin" not in bad.headers


def test_healthz_is_true_only_while_every_service_is_healthy(stack: Any) -> None:
    for service in stack.services.values():
        service.serving(False)
        stack.await_health(503)
        service.serving(True)
        stack.await_health(200)


def test_the_ops_port_shows_metrics_and_readiness_and_nothing_else(stack: Any) -> None:
    paths = ("/ready", "/stats/prometheus", "/config_dump", "/quitquitquit", "/stats")

    assert [stack.gateway.ops(path).status_code for path in paths] == [200, 200, 404, 404, 404]


def test_no_update_was_rejected(stack: Any) -> None:
    for name in ("listener_manager_lds", "cluster_manager_cds", "http_rds"):
        assert stack.gateway.stat(f"envoy_{name}_update_rejected") == 0


def test_the_access_log_tells_who_called_what_and_why_it_was_refused(stack: Any) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    stack.machines("viewer", stack.mesh.token("bob", ["viewer"])).post(
        DISPATCH, json={}, headers={"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
    )
    line = _log_line(stack, "trace_id", trace)

    assert line["path"] == DISPATCH
    assert line["peer"] == stack.mesh.spiffe_id("viewer")
    assert line["subject"] == "bob"
    assert (line["status"], line["details"].startswith("rbac_access_denied")) == (403, True)


def test_a_call_without_a_trace_gets_one_that_the_service_sees_too(stack: Any) -> None:
    request_id = stack.machines().get("/v1/tools").headers["x-request-id"]
    line = _log_line(stack, "request_id", request_id)

    assert line["policy"] == "aegis.agent.v1.AgentService/ListTools"
    assert line["trace_id"] == stack.seen.metadata["ListTools"]["traceparent"].split("-")[1]


def _log_line(stack: Any, key: str, value: str) -> dict[str, Any]:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        complete = stack.gateway.access_log.read_text().split("\n")[:-1]
        if found := [line for line in map(json.loads, complete) if line[key] == value]:
            return dict(found[0])
        time.sleep(0.1)
    raise AssertionError(f"no line of the access log has {key} {value}")
