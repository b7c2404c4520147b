"""The OpenAPI document: valid, complete, repeatable, and true of the running gateway."""

from __future__ import annotations

from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from aegis_common.rpc.access import method_table
from aegis_gateway.openapi import openapi_document, openapi_json

SIGN_IN = ("/.well-known/oauth-protected-resource", "/.well-known/oauth-protected-resource/mcp")
VERBS = {"get", "put", "post", "delete", "patch"}
DOCUMENT = openapi_document()
ROUTED = openapi_document(agent_http=False, sign_in=False)


def operation(path: str, verb: str) -> dict[str, Any]:
    found: dict[str, Any] = DOCUMENT["paths"][path][verb]
    return found


def schema(name: str) -> dict[str, Any]:
    found: dict[str, Any] = DOCUMENT["components"]["schemas"][name]
    return found


def test_it_is_valid_openapi_3_1() -> None:
    OpenAPIV31SpecValidator(DOCUMENT).validate()


def test_it_is_the_same_every_time() -> None:
    openapi_json.cache_clear()
    first = openapi_json()
    openapi_json.cache_clear()

    assert openapi_json() == first


def test_it_has_one_operation_for_each_http_mapping_and_a_unique_id_for_each() -> None:
    ids = [
        found["operationId"]
        for item in DOCUMENT["paths"].values()
        for verb, found in item.items()
        if verb in VERBS and "operationId" in found
    ]
    mapped = [
        (binding.verb, binding.path)
        for rule in method_table().values()
        if not rule.mesh_internal
        for binding in (*rule.http, *rule.rest)
    ]

    assert len(ids) == len(set(ids)) == len(mapped)


def test_what_the_agents_http_listener_serves_is_there_when_it_is_routed() -> None:
    rest = {
        (path, verb) for path, item in DOCUMENT["paths"].items() if path.startswith("/v2") for verb in item
    }
    bare = openapi_document(agent_http=False, sign_in=False)
    missing = DOCUMENT["paths"].keys() - bare["paths"].keys()

    assert rest == {(binding.path, binding.verb) for rule in method_table().values() for binding in rule.rest}
    assert missing == {path for path, _ in rest} | {"/mcp", *SIGN_IN}
    assert not [name for name in bare["components"]["schemas"] if name.startswith("inference.")]


def test_an_inference_is_described_as_its_protocol_has_it() -> None:
    infer = operation("/v2/models/{model}/versions/{version}/infer", "post")
    tensor = schema("inference.ModelInferRequest.InferInputTensor")
    batch = schema("inference.InferBatchStatistics")

    assert {"application/json", "application/octet-stream"} == set(infer["requestBody"]["content"])
    assert {"name", "datatype", "shape", "parameters", "data"} == set(tensor["properties"])
    assert "integer" == batch["properties"]["batch_size"]["type"]
    assert ["admin", "operator", "trainer"] == infer["x-aegis-roles"]


def test_nothing_of_the_mesh_is_shown() -> None:
    assert "RoundService" not in openapi_json()


def test_limits_and_required_fields_come_from_the_descriptor_set() -> None:
    request = schema("aegis.agent.v1.DispatchRequest")
    page_size = next(p for p in operation("/v1/tools", "get")["parameters"] if p.get("name") == "pageSize")

    assert request["required"] == ["tool"]
    assert request["properties"]["payload"]["maxItems"] == 64
    assert request["properties"]["tool"]["pattern"] == "^tools/[a-z][a-z0-9_.-]{0,62}$"
    assert (page_size["schema"]["minimum"], page_size["schema"]["maximum"]) == (0, 1000)
    assert (
        schema("aegis.carbon.v1.CheckScheduleRequest")["properties"]["maxIntensityGPerKwh"][
            "exclusiveMinimum"
        ]
        == 0
    )


def test_a_required_oneof_wants_exactly_one_member() -> None:
    part = schema("aegis.agent.v1.Part")

    names = ("text", "json", "inlineBytes", "artifact")
    assert part["oneOf"] == [{"required": [name]} for name in names]


def test_what_the_path_says_is_not_said_again_in_the_body() -> None:
    dispatch = operation("/v1/tools/{tool}:dispatch", "post")
    body = dispatch["requestBody"]["content"]["application/json"]["schema"]
    path = dispatch["parameters"][0]

    assert set(body["properties"]) == {"payload", "priority", "timeout"}
    assert (path["name"], path["schema"]["pattern"]) == ("tool", "^[a-z][a-z0-9_.-]{0,62}$")


def test_comments_roles_and_deadlines_are_told() -> None:
    dispatch = operation("/v1/tools/{tool}:dispatch", "post")

    assert dispatch["summary"].startswith("Runs one tool and returns its result.")
    assert "30 s by default, 600 s at most" in dispatch["description"]
    assert dispatch["x-aegis-roles"] == ["admin", "operator", "trainer"]


def test_errors_and_credentials_are_described() -> None:
    assert DOCUMENT["security"] == [{"bearer": []}, {"mtls": []}]
    assert set(schema("google.rpc.Status")["properties"]) == {"code", "message", "details"}
    assert operation("/v1/zones", "get")["responses"]["default"] == {"$ref": "#/components/responses/Error"}


def test_a_stream_is_described_as_one() -> None:
    answer = operation("/v1/trainingRuns/{trainingRun}:watch", "get")["responses"]["200"]

    assert set(answer["content"]) == {"application/json", "text/event-stream"}


@pytest.mark.parametrize(
    ("path", "verb"),
    [(path, verb) for path, item in ROUTED["paths"].items() for verb in item if verb in VERBS],
)
def test_every_path_is_known_to_the_running_gateway(stack: Any, path: str, verb: str) -> None:
    url = path.replace("{", "").replace("}", "")
    answer = stack.machines("admin").request(verb.upper(), url, json={} if verb == "post" else None)

    unknown = answer.status_code == 404 and "no such path" in answer.text
    assert not unknown, answer.text


def test_raw_bodies_are_any_media_type_in_and_out() -> None:
    upload = operation("/v1/artifacts", "post")
    download = operation("/v1/artifacts/{artifact}:download", "get")

    assert list(upload["requestBody"]["content"]) == ["*/*"]
    assert list(download["responses"]["200"]["content"]) == ["*/*"]
    query = {item["name"] for item in upload["parameters"] if item.get("in") == "query"}
    assert query == {"mediaType", "filename", "retention", "sha256", "sizeBytes", "existing", "holder"}
    assert "one JSON object a line" not in download["description"]
