"""The unchanged tritonclient, and the REST form, through the real gateway: by certificate and by token."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from jsonschema import Draft202012Validator
from onnx import TensorProto

from aegis_agent.main import running
from aegis_agent.settings import AgentSettings
from aegis_common.pki import new_ed25519, public_key_pem, server_dns
from aegis_common.settings import TokenSettings
from aegis_common.signing import Signer, TrustedKeys
from aegis_common.store.bundle import FORMAT_BUNDLE
from aegis_common.store.models import ModelStore
from aegis_common.store.objects import ObjectStore
from aegis_common.testing.pki import ISSUER, Mesh
from aegis_common.testing.ports import free_ports
from aegis_gateway.config import GatewaySettings
from aegis_gateway.testing import running_gateway
from bundle_support import BLUE, COLOURS, bundle, mean_colour, picture
from oip_support import identity, publish, scores

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.long]

TRITON = Path(__file__).parents[1] / "services" / "agent" / "tests" / "triton_calls.py"
ROW = {"name": "input", "datatype": "FP32", "shape": [1, 4], "data": [0, 1, 0, 0]}


class Doors:
    def __init__(self, mesh: Mesh, machines: int, people: int) -> None:
        self.mesh, self.machines, self.people = mesh, machines, people

    async def triton(self, account: str, **more: str) -> dict[str, Any]:
        tls = self.mesh.tls(account)
        options = {
            "url": f"127.0.0.1:{self.machines}",
            "bundle": str(tls.bundle),
            "key": str(tls.key),
            "cert": str(tls.cert),
            "name": server_dns("gateway", "aegis"),
            **more,
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(TRITON), json.dumps(options), stdout=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate()
        assert process.returncode == 0
        found: dict[str, Any] = json.loads(out)
        return found

    async def rest(
        self, role: str, path: str = "/v2/models/colours/infer", *, verb: str = "POST", **options: Any
    ) -> httpx.Response:
        context = ssl.create_default_context(cafile=str(self.mesh.ca.bundle))
        headers = {"authorization": f"Bearer {self.mesh.token(roles=[role])}", **options.pop("headers", {})}
        url = f"https://localhost:{self.people}{path}"
        async with httpx.AsyncClient(verify=context, trust_env=False, timeout=60) as http:
            return await http.request(verb, url, headers=headers, **options)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def doors(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Doors]:
    folder = tmp_path_factory.mktemp("oip-gateway")
    mesh = Mesh(folder)
    key = new_ed25519(folder / "signing.key")
    (folder / "signing.pem").write_bytes(public_key_pem(key))
    url = f"file://{folder / 'store'}"
    machines, people, ops, http, nobody = free_ports(5)
    settings = AgentSettings(
        **mesh.service_kwargs("agent"),
        model_store_url=url,
        model_trusted_keys=(folder / "signing.pem",),
        plugins=False,
        warm_up=False,
        http_listen=f"127.0.0.1:{http}",
    )
    store = ModelStore(ObjectStore.open(url), Signer(key), TrustedKeys())
    async with running(settings) as agent:
        async with mesh.channel(agent.port, "agent", account="admin") as channel:
            await publish(channel, store, "colours", scores())
            await publish(channel, store, "words", identity(TensorProto.STRING, ["n", 3]))
            await publish(channel, store, "halves", identity(TensorProto.FLOAT16, ["n", "m"]))
            pictures = bundle(COLOURS, mean_colour())
            await publish(channel, store, "pictures", pictures, kind=FORMAT_BUNDLE)
        gateway = GatewaySettings(
            machines_listen=f"127.0.0.1:{machines}",
            people_listen=f"127.0.0.1:{people}",
            ops_listen=f"127.0.0.1:{ops}",
            tls=mesh.tls("gateway"),
            identities=mesh.identities,
            token=TokenSettings(issuer=ISSUER, jwks=str(mesh.jwks)),
            agent=f"127.0.0.1:{agent.port}",
            agent_http=f"127.0.0.1:{http}",
            carbon=f"127.0.0.1:{nobody}",
            fl_coordinator=f"127.0.0.1:{nobody}",
        )
        envoy = running_gateway(gateway, folder / "gateway")
        await asyncio.to_thread(envoy.__enter__)
        try:
            yield Doors(mesh, machines, people)
        finally:
            await asyncio.to_thread(envoy.__exit__, None, None, None)


async def test_tritonclient_through_the_gateway(doors: Doors) -> None:
    found = await doors.triton("admin")

    errors = {
        name: item["status"] for name, item in found.items() if isinstance(item, dict) and "error" in item
    }
    assert errors == {
        "unknown": "StatusCode.NOT_FOUND",
        "bad_shape": "StatusCode.INVALID_ARGUMENT",
        "unloaded": "StatusCode.FAILED_PRECONDITION",
        "load_with_files": "StatusCode.INVALID_ARGUMENT",
    }
    assert found["infer"] == [[1, 0, 0], [2, 0, 0]]
    assert found["infer_options"] == ["r1", "v1", [[3, 0, 0]]]
    assert found["stream"][:5] == [[[number, 0, 0]] for number in range(5)]
    assert (found["bytes"], found["fp16"], found["loaded"]) == (["a", "é", ""], [[0.5, 1.5]], ["a", "é", ""])


async def test_the_gateway_refuses_whom_the_access_table_refuses(doors: Doors) -> None:
    found = await doors.triton("viewer")

    assert found["metadata"]["name"] == "colours"
    assert not any(isinstance(item, list) for item in found["stream"])
    for name in ("infer", "async_infer", "unload", "load"):
        assert found[name]["status"] == "StatusCode.PERMISSION_DENIED", name


async def test_rest_through_the_gateway_with_a_token(doors: Doors) -> None:
    allowed = await doors.rest("operator", json={"inputs": [ROW]})
    refused = await doors.rest("viewer", json={"inputs": [ROW]})
    head = json.dumps({"inputs": [ROW], "outputs": [{"name": "scores", "parameters": {"binary_data": True}}]})
    binary = await doors.rest(
        "operator",
        content=head.encode(),
        headers={
            "Inference-Header-Content-Length": str(len(head)),
            "content-type": "application/octet-stream",
        },
    )

    assert (allowed.status_code, allowed.json()["outputs"][0]["data"]) == (200, [0, 1, 0])
    assert refused.status_code == 403
    assert (binary.status_code, binary.headers["inference-header-content-length"] > "0") == (200, True)


def closed(schema: Any) -> Any:
    """Return the schema with every object held to the properties that it names."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: closed(value) for key, value in schema.items()}
    if "properties" in found and found.get("type") == "object":
        found.setdefault("additionalProperties", False)
    return found


async def test_every_answer_is_as_the_openapi_document_says(doors: Doors) -> None:
    document = (await doors.rest("viewer", "/openapi.json", verb="GET")).json()
    schemas = document["components"]["schemas"]
    schemas |= {name: closed(told) for name, told in schemas.items() if name.startswith("inference.")}
    operations = [
        (path, verb, operation)
        for path, item in document["paths"].items()
        for verb, operation in item.items()
        if path.startswith("/v2")
    ]
    bodies = {"infer": {"inputs": [ROW], "id": "7"}, "index": {"ready": True}}
    asked = {"version": "v1", "model": "colours"}
    await doors.rest("admin", json=bodies["infer"])
    for path, verb, operation in sorted(operations, key=lambda item: "unload" in item[0]):
        body = bodies.get(path.rpartition("/")[2], {}) if "requestBody" in operation else None
        answer = await doors.rest("admin", path.format_map(asked), verb=verb.upper(), json=body)
        missing = await doors.rest(
            "admin", path.replace("{model}", "none").format_map(asked), verb=verb.upper(), json=body
        )

        assert answer.status_code == 200, answer.text
        for got in (answer, missing):
            code = str(got.status_code)
            response = operation["responses"].get(code, operation["responses"]["default"])
            told = closed(response["content"]["application/json"]["schema"])
            told["components"] = document["components"]
            Draft202012Validator(told).validate(got.json())


async def test_mcp_is_answered_and_refused_as_the_openapi_document_says(doors: Doors) -> None:
    document = (await doors.rest("viewer", "/openapi.json", verb="GET")).json()
    responses = document["paths"]["/mcp"]["post"]["responses"]
    accept = {"accept": "application/json, text/event-stream"}
    ask = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    listed = await doors.rest("viewer", "/mcp", json=ask, headers=accept)
    unread = await doors.rest("viewer", "/mcp", content=b"[" * 100_000, headers=accept)

    assert listed.status_code == 200
    assert listed.headers["content-type"].partition(";")[0] in responses["200"]["content"]
    told = responses["default"]["content"]["application/json"]["schema"]
    assert unread.status_code == 400
    Draft202012Validator(closed(told)).validate(unread.json())


async def test_a_bundle_takes_images_as_a_tool_and_tensors_as_a_model(doors: Doors) -> None:
    """Beside those of the other tests, on the same replica, through the same gateway."""
    part = {"inlineBytes": base64.b64encode(picture(BLUE)).decode(), "mediaType": "image/png"}
    answer = await doors.rest("operator", "/v1/tools/pictures:dispatch", json={"payload": [part]})
    broken = {"payload": [part | {"inlineBytes": part["inlineBytes"][:60]}]}
    refused = await doors.rest("operator", "/v1/tools/pictures:dispatch", json=broken)
    tensors = await doors.triton("sdk", pictures="pictures")

    assert answer.json()["result"][0]["json"]["labels"][0] == {"label": "blue", "score": 1}
    assert (refused.status_code, refused.json()["details"][0]["reason"]) == (400, "INVALID_TOOL_INPUT")
    assert tensors["classes"] == ["1.000000:1:green", "1.000000:2:blue"]
