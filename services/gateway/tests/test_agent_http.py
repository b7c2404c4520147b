"""The agent's HTTP listener behind the gateway: routed whole or not at all, and never open to anybody."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from aegis_common.rpc.access import method_table
from aegis_common.testing.pki import ISSUER
from aegis_gateway.config import GatewaySettings, render, validate
from aegis_gateway.flatten import flatten
from aegis_gateway.proofs import faults
from aegis_gateway.tree import Tree, load

PUBLIC = "https://gateway.example.org"
METADATA = "/.well-known/oauth-protected-resource/mcp"


@pytest.fixture
def with_http(settings: GatewaySettings) -> GatewaySettings:
    return settings.model_copy(update={"agent_http": "127.0.0.1:1005", "public_url": PUBLIC})


def routes(folder: Path, door: str) -> dict[str, Tree]:
    config = load((folder / f"rds_{door}.yaml").read_text())["resources"][0]
    return {route["name"]: route for route in config["virtual_hosts"][0]["routes"]}


def test_mcp_and_inference_go_to_the_listener_on_both_ports(
    with_http: GatewaySettings, tmp_path: Path
) -> None:
    render(with_http, tmp_path)
    validate(tmp_path)

    for door in ("machines", "people"):
        found = routes(tmp_path, door)
        for name in ("mcp", "inference", "inference-root"):
            assert "agent-http" == found[name]["route"]["cluster"]
            assert found[name]["typed_per_filter_config"]["transcoder"]["disabled"]


def test_without_the_listener_nothing_of_it_is_there(settings: GatewaySettings, tmp_path: Path) -> None:
    render(settings, tmp_path)
    validate(tmp_path)

    for door in ("machines", "people"):
        assert (
            not {"mcp", "inference", "inference-root", "protected-resource"} & routes(tmp_path, door).keys()
        )
        assert "agent-http" not in (tmp_path / f"ecds/rbac_{door}.yaml").read_text()
    assert "agent-http" not in (tmp_path / "cds.yaml").read_text()
    assert "agent-http" not in (tmp_path / "lds.yaml").read_text()


def test_the_metadata_name_the_resource_and_its_issuer(with_http: GatewaySettings, tmp_path: Path) -> None:
    render(with_http.model_copy(update={"mcp_scopes": ("openid", "tools")}), tmp_path)

    body = routes(tmp_path, "people")["protected-resource"]["direct_response"]["body"]["inline_string"]
    assert {
        "resource": f"{PUBLIC}/mcp",
        "resource_name": "AEGIS",
        "authorization_servers": [ISSUER],
        "bearer_methods_supported": ["header"],
        "scopes_supported": ["openid", "tools"],
    } == json.loads(body)


def test_refusals_of_mcp_say_where_the_metadata_are(with_http: GatewaySettings, tmp_path: Path) -> None:
    render(with_http, tmp_path)

    listeners = load((tmp_path / "lds.yaml").read_text())["resources"]
    for listener in listeners[:2]:
        manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
        mappers = manager["local_reply_config"]["mappers"]
        said = [mapper["headers_to_add"][0]["header"]["value"] for mapper in mappers[:3]]
        assert [
            f'Bearer error="invalid_token", resource_metadata="{PUBLIC}{METADATA}"',
            f'Bearer resource_metadata="{PUBLIC}{METADATA}"',
            f'Bearer error="invalid_token", resource_metadata="{PUBLIC}{METADATA}"',
        ] == said


def hosts(static: Tree, listener: str) -> list[Tree]:
    found = next(item for item in static["static_resources"]["listeners"] if item["name"] == listener)
    manager = found["filter_chains"][0]["filters"][0]["typed_config"]
    result: list[Tree] = manager["route_config"]["virtual_hosts"][0]["routes"]
    return result


def policies(static: Tree) -> Tree:
    found = next(item for item in static["static_resources"]["listeners"] if item["name"] == "people")
    manager = found["filter_chains"][0]["filters"][0]["typed_config"]
    rbac = next(item for item in manager["http_filters"] if item["name"] == "rbac")
    result: Tree = rbac["typed_config"]["rules"]["policies"]
    return result


def half_routed(static: Tree) -> None:
    found = hosts(static, "people")
    found[:] = [route for route in found if route.get("name") != "inference"]


def wide_open(static: Tree) -> None:
    policies(static)["agent-http"]["principals"] = [{"any": True}]


def closed(static: Tree) -> None:
    del policies(static)["agent-http"]


MISTAKES: tuple[tuple[Callable[[Tree], None], str], ...] = (
    (half_routed, "/v2/ is not routed to cluster 'agent-http'"),
    (wide_open, "/mcp is open to anybody"),
    (closed, "/mcp is routed but no RBAC policy admits anybody"),
)


def test_each_mistake_is_found(with_http: GatewaySettings, tmp_path: Path) -> None:
    render(with_http, tmp_path)
    right = flatten(tmp_path)

    assert [] == faults(right, method_table())
    for mistake, why in MISTAKES:
        static = copy.deepcopy(right)
        mistake(static)
        assert any(why in fault for fault in faults(static, method_table())), why


def test_a_public_url_without_tls_is_refused(settings: GatewaySettings) -> None:
    with pytest.raises(ValidationError, match="is not https"):
        GatewaySettings.model_validate({**settings.model_dump(), "public_url": "http://gateway.example.org"})
