"""HTTP and JSON through the gateway: what works, and what a caller sees of each mistake."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from PIL import Image, ImageDraw, ImageFont

from stack_support import Stack


@pytest.fixture(scope="module")
def http(stack: Stack) -> Iterator[httpx.Client]:
    with stack.http(stack.token("operator")) as client:
        yield client


def _dispatch(http: httpx.Client, tool: str, *parts: dict[str, Any], **options: Any) -> httpx.Response:
    return http.post(f"/v1/tools/{tool}:dispatch", json={"payload": list(parts), **options})


def _image(text: str) -> str:
    image = Image.new("RGB", (640, 120), "white")
    ImageDraw.Draw(image).text((20, 30), text, fill="black", font=ImageFont.load_default(48))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def test_text_is_read_from_an_image(http: httpx.Client) -> None:
    answer = _dispatch(http, "image_ocr", {"inlineBytes": _image("AEGIS 2026"), "mediaType": "image/png"})

    assert 200 == answer.status_code, answer.text
    assert "AEGIS 2026" in answer.json()["result"][0]["json"]["text"]


def test_a_batch_keeps_its_order_and_one_failure_to_itself(http: httpx.Client) -> None:
    actions = [
        {"tool": "tools/echo", "payload": [{"json": {"text": "one"}}]},
        {"tool": "tools/no_such_tool"},
        {"tool": "tools/detect_language", "payload": [{"text": "Das ist ein deutscher Satz."}]},
    ]
    answer = http.post("/v1/tools:batchDispatch", json={"requests": actions})
    outcomes = answer.json()["outcomes"]

    assert 200 == answer.status_code, answer.text
    assert ["response", "error", "response"] == [next(iter(outcome)) for outcome in outcomes]
    assert 5 == outcomes[1]["error"]["code"]
    assert "UNKNOWN_TOOL" == outcomes[1]["error"]["details"][0]["reason"]
    assert "de" == outcomes[2]["response"]["result"][0]["json"]["language"]


def test_a_carbon_decision_says_what_it_rests_on(http: httpx.Client) -> None:
    answer = http.post("/v1/carbon:checkSchedule", json={}).json()

    assert answer["decision"] in {"DECISION_RUN_NOW", "DECISION_WAIT"}
    assert answer["intensity"]["source"]
    assert answer["intensity"]["gPerKwh"] > 0


def test_a_place_is_resolved_by_plain_http(http: httpx.Client) -> None:
    by_region = http.get("/v1/zones:resolve", params={"cloudRegion": "aws/eu-west-2"})
    point = {"location.latitude": 51.5, "location.longitude": 0}
    by_point = http.get("/v1/zones:resolve", params=point)
    unknown = http.get("/v1/zones:resolve", params={"country": "XX"})

    assert ["zones/GB"] == [zone["zone"] for zone in by_region.json()["zones"]]
    assert "ZONE_QUALITY_NEAREST" == by_point.json()["zones"][0]["quality"]
    assert 404 == unknown.status_code
    assert "UNKNOWN_PLACE" == unknown.json()["details"][0]["reason"]


def test_a_plan_and_a_forecast_come_by_plain_http(http: httpx.Client) -> None:
    job = {"zones": ["zones/demo-day"], "duration": "7200s", "maxWait": "64800s"}
    plan = http.post("/v1/plans:planWindow", json={"job": job}).json()["plan"]
    batch = http.post("/v1/plans:batchPlanWindows", json={"jobs": [job, {"duration": "60s"}]}).json()
    forecast = http.get("/v1/zones/demo-day/forecast", params={"horizon": "3600s"}).json()

    assert plan["spans"][0]["endTime"] <= plan["deadline"]
    assert plan["gPerKwh"] <= plan["nowGPerKwh"]
    assert ["plan", "plan"] == [next(iter(outcome)) for outcome in batch["outcomes"]]
    assert forecast["slots"][0]["lowGPerKwh"] <= forecast["slots"][0]["gPerKwh"]


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b'{"payload": [', "application/json", 400),
        (b"[1, 2]", "application/json", 400),
        (b'{"payload": "text"}', "application/json", 400),
        (b'{"timeout": "soon"}', "application/json", 400),
        (b'{"payload": [{}]}', "application/json", 400),
    ],
)
def test_a_bad_body_is_refused(http: httpx.Client, body: bytes, kind: str, status: int) -> None:
    answer = http.post("/v1/tools/echo:dispatch", content=body, headers={"content-type": kind})

    assert status == answer.status_code, answer.text
    assert answer.json()["message"]


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/xml", "multipart/form-data; boundary=x", "image/png"]
)
def test_a_body_that_says_it_is_no_json_is_refused(http: httpx.Client, kind: str) -> None:
    body = b'{"payload": [{"text": "hi"}]}'
    answer = http.post("/v1/tools/echo:dispatch", content=body, headers={"content-type": kind})

    assert 415 == answer.status_code, answer.text
    assert "application/json" in answer.json()["message"]


@pytest.mark.parametrize(
    "kind", ["application/json", "application/json; charset=utf-8", "application/x-www-form-urlencoded"]
)
def test_json_passes_as_clients_send_it(http: httpx.Client, kind: str) -> None:
    body = b'{"payload": [{"text": "hi"}]}'
    answer = http.post("/v1/tools/echo:dispatch", content=body, headers={"content-type": kind})

    assert 200 == answer.status_code, answer.text


def test_bytes_where_text_is_expected_name_the_parameter(http: httpx.Client) -> None:
    answer = _dispatch(http, "detect_language", {"inlineBytes": "AAEC", "mediaType": "image/png"})

    assert 400 == answer.status_code, answer.text
    assert "INVALID_TOOL_INPUT" == answer.json()["details"][0]["reason"]


def test_bytes_that_are_no_image_are_refused_clearly(http: httpx.Client) -> None:
    answer = _dispatch(http, "image_ocr", {"inlineBytes": base64.b64encode(b"no image").decode()})

    assert answer.status_code in {400, 422}, answer.text
    assert "image" in answer.json()["message"]


def test_an_unknown_query_parameter_is_named(http: httpx.Client) -> None:
    answer = http.get("/v1/tools", params={"bogus": 1})

    assert 400 == answer.status_code, answer.text
    assert "bogus" in answer.text


@pytest.mark.parametrize("path", ["/v1/nothing", "/v1/tools/x/y/z", "/"])
def test_an_unknown_path_is_not_found(http: httpx.Client, path: str) -> None:
    assert 404 == http.get(path).status_code


def test_an_unknown_tool_is_not_found_with_its_reason(http: httpx.Client) -> None:
    answer = http.get("/v1/tools/ecco")

    assert 404 == answer.status_code
    assert "UNKNOWN_TOOL" == answer.json()["details"][0]["reason"]


def test_an_oversized_body_is_refused(http: httpx.Client) -> None:
    answer = http.post("/v1/carbon:checkSchedule", content=b" " * (16 << 20))

    assert 413 == answer.status_code


@pytest.mark.parametrize("door", ["people", "machines"])
def test_health_openapi_and_descriptors_are_served(stack: Stack, door: str) -> None:
    with stack.http() if door == "people" else stack.machines_http("viewer") as http:
        health = http.get("/healthz")
        document = http.get("/openapi.json")
        descriptors = http.get("/descriptors.binpb")

    assert 200 == health.status_code
    assert document.json()["openapi"].startswith("3.1")
    assert b"aegis/agent/v1/agent_service.proto" in descriptors.content


def test_every_path_of_the_openapi_document_is_routed(stack: Stack, http: httpx.Client) -> None:
    """One request per operation: none may end where no door is, at the gateway or behind it."""
    document = http.get("/openapi.json").json()
    unrouted = []
    with stack.http(stack.token("admin")) as admin:
        for path, operations in document["paths"].items():
            for verb in operations:
                url = path.replace("{", "").replace("}", "")
                if verb == "get" and url.endswith(":watch"):
                    continue  # the stream is covered where runs are watched
                answer = admin.request(verb, url, json={} if verb in {"post", "put", "patch"} else None)
                if answer.status_code == 404 and "no such path" in answer.text:
                    unrouted.append(f"{verb} {path}: {answer.status_code} {answer.text}")

    assert document["paths"]
    assert [] == unrouted
