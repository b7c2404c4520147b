"""Rendered files: equal for equal settings, and strict about what they are made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aegis_common.errors import ConfigurationError
from aegis_common.rpc.access import method_table
from aegis_common.settings import TokenSettings
from aegis_common.testing.pki import Mesh
from aegis_gateway.config import GatewaySettings, envoy_command, render, validate
from aegis_gateway.flatten import flatten
from aegis_gateway.settings import load_settings
from aegis_gateway.tree import Tree, load, put, walk


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def test_rendering_twice_changes_no_file(settings: GatewaySettings, tmp_path: Path) -> None:
    render(settings, tmp_path)
    before = snapshot(tmp_path)
    bootstrap = render(settings, tmp_path)

    assert snapshot(tmp_path) == before
    assert bootstrap == tmp_path / "envoy.yaml"


def test_a_changed_setting_changes_only_its_own_file(settings: GatewaySettings, tmp_path: Path) -> None:
    render(settings, tmp_path)
    before = snapshot(tmp_path)
    render(settings.model_copy(update={"agent": "127.0.0.1:2001,127.0.0.1:2002"}), tmp_path)

    after = snapshot(tmp_path)
    assert [name for name in after if after[name] != before.get(name)] == ["cds.yaml"]


def _routes(folder: Path, door: str) -> dict[str, Tree]:
    config = load((folder / f"rds_{door}.yaml").read_text())["resources"][0]
    return {route["name"]: route for route in config["virtual_hosts"][0]["routes"]}


def test_deadlines_and_retries_follow_the_descriptor_set(settings: GatewaySettings, tmp_path: Path) -> None:
    render(settings, tmp_path)
    routes = _routes(tmp_path, "people")

    for rule in method_table().values():
        if rule.mesh_internal:
            assert rule.path[1:] not in routes
            continue
        route = routes[rule.path[1:]]["route"]
        unary = not (rule.client_streaming or rule.server_streaming)
        assert ("unavailable" in route["retry_policy"]["retry_on"]) == (rule.safe and unary)
        assert route["max_stream_duration"] == {
            "max_stream_duration": f"{rule.default_timeout_s:g}s",
            "grpc_timeout_header_max": f"{rule.max_timeout_s:g}s",
        }


def test_only_methods_that_take_bytes_have_the_larger_limit(
    settings: GatewaySettings, tmp_path: Path
) -> None:
    render(settings, tmp_path)
    inline = {name for name in _routes(tmp_path, "people") if name.startswith("inline ")}

    assert inline == {
        "inline /v1/{tool=tools/*}:dispatch",
        "inline /v1/{tool=tools/*}:dispatchStream",
        "inline events /v1/{tool=tools/*}:dispatchStream",
        "inline /v1/jobs",
        "inline /v1/publisherKeys",
        "inline /v1/{parent=models/*}/versions:import",
        "inline /v1/{name=toolFiles/*}:put",
        "inline /v1/tools:batchDispatch",
    }


def test_only_raw_bodies_have_no_json_limit_and_pass_before_the_check_for_json(
    settings: GatewaySettings, tmp_path: Path
) -> None:
    render(settings, tmp_path)
    for door in ("machines", "people"):
        names = list(_routes(tmp_path, door))
        raw = [name for name in names if name.startswith("raw ")]
        route = _routes(tmp_path, door)["raw /v1/artifacts"]
        download = _routes(tmp_path, door)["aegis.agent.v1.ArtifactService/DownloadArtifact"]

        assert raw == ["raw /v1/artifacts"]
        assert (
            names.index("form /v1/artifacts") + 1 == names.index("raw /v1/artifacts") < names.index("media")
        )
        assert set(route["typed_per_filter_config"]) == {"body_limit_json", "body_limit_inline"}
        assert [item["string_match"]["exact"] for item in route["match"]["headers"]] == ["POST"]
        assert [item["header"]["value"] for item in download["response_headers_to_add"]] == [
            "attachment",
            "nosniff",
        ]


def test_the_fleet_is_routed_on_the_machines_port_only_and_only_when_there_is_one(
    settings: GatewaySettings, tmp_path: Path
) -> None:
    render(settings, tmp_path / "with")
    render(settings.model_copy(update={"fl_edge": None}), tmp_path / "without")

    assert "fleet" in _routes(tmp_path / "with", "machines")
    assert "fleet" not in _routes(tmp_path / "with", "people")
    assert "fleet" not in _routes(tmp_path / "without", "machines")
    assert "/v1/fleet/" not in (tmp_path / "without" / "ecds" / "rbac_machines.yaml").read_text()
    validate(tmp_path / "without")


def test_without_an_issuer_no_token_is_accepted(settings: GatewaySettings, tmp_path: Path) -> None:
    render(settings.model_copy(update={"token": TokenSettings()}), tmp_path)

    validate(tmp_path)


def test_keys_from_the_issuers_url_are_asked_for_over_tls(settings: GatewaySettings, tmp_path: Path) -> None:
    token = TokenSettings(
        issuer="https://id.example.org",
        jwks="https://keys.example.org/a/jwks",
        jwks_bundle=settings.tls.bundle,
    )
    render(settings.model_copy(update={"token": token, "otlp_endpoint": "http://127.0.0.1:4317"}), tmp_path)
    validate(tmp_path)
    clusters = {each["name"]: each for each in flatten(tmp_path)["static_resources"]["clusters"]}

    assert clusters["jwks"]["transport_socket"]["typed_config"]["sni"] == "keys.example.org"
    assert "transport_socket" not in clusters["otel"]


def test_another_trust_domain_and_roles_claim_reach_every_file(
    settings: GatewaySettings, mesh: Mesh, tmp_path: Path
) -> None:
    tls = settings.tls.model_copy(update={"trust_domain": "example.org", "namespace": "prod"})
    token = settings.token.model_copy(update={"roles_claim": "realm_access.roles"})
    render(settings.model_copy(update={"tls": tls, "token": token}), tmp_path)
    own = [path for path in tmp_path.rglob("*.yaml") if "spiffe://aegis.local/ns/" in path.read_text()]

    # The identities file still names the old domain's clients; nothing else does.
    assert [path.name for path in own] == ["rbac_machines.yaml"]
    assert "key: realm_access" in (tmp_path / "ecds" / "rbac_people.yaml").read_text()
    assert "agent.prod.aegis.internal" in (tmp_path / "cds.yaml").read_text()
    validate(tmp_path)


def test_every_path_of_the_rendered_files_is_absolute(settings: GatewaySettings, tmp_path: Path) -> None:
    render(settings, tmp_path)

    for file in tmp_path.rglob("*.yaml"):
        for node in walk(load(file.read_text())):
            for key in ("path", "filename", "proto_descriptor"):
                value = node.get(key)
                if isinstance(value, str) and "%" not in value:
                    assert value.startswith("/"), (file, key, value)


def test_a_node_that_the_yaml_does_not_have_cannot_be_set() -> None:
    with pytest.raises(KeyError, match=r"no node a\.c"):
        put({"a": {"b": 1}}, 2, "a", "c")


def test_an_admin_socket_with_too_long_a_path_is_refused(settings: GatewaySettings, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="admin socket"):
        render(settings, tmp_path / ("x" * 90) / "y")


def test_an_identities_file_that_is_wrong_is_refused_by_name(
    settings: GatewaySettings, tmp_path: Path
) -> None:
    file = tmp_path / "identities.json"
    file.write_text('{"schema_version": 9, "identities": {}}')

    with pytest.raises(ConfigurationError, match=r"identities\.json.*schema_version 9"):
        render(settings.model_copy(update={"identities": file}), tmp_path)


GOOD: dict[str, Any] = {
    "tls": {"cert": "c", "key": "k", "bundle": "b"},
    "identities": "i",
    "agent": "agent:1",
    "carbon": "carbon:1",
    "fl_coordinator": "fl:1",
}


def test_settings_come_from_a_file_and_flags(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("tls: {cert: c, key: k, bundle: b}\nidentities: i\nagent: 'a:1'\ncarbon: 'c:1'\n")
    settings = load_settings(file, ["fl_coordinator=f:1", "token.issuer=https://i", "token.jwks=jwks.json"])

    assert (settings.agent, settings.fl_coordinator, settings.token.issuer) == ("a:1", "f:1", "https://i")


@pytest.mark.parametrize(
    ("override", "why"),
    [
        ("agnet=a:1", "agnet"),
        ("agent=nowhere", "agent.*host:port"),
        ("agent=a:70000", "65535"),
        ("token.issuer=https://i", "token.jwks"),
        ("token.jwks=http://i/jwks", "https"),
        ("people_listen=127.0.0.1:8443", "share an address"),
        ("request_burst=1", "below requests_per_second"),
        ("otlp_endpoint=collector:4317", "http"),
        ("agent", "name=value"),
        ("agent.port=1", "agent"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, override: str, why: str) -> None:
    file = tmp_path / "settings.json"
    file.write_text(__import__("json").dumps(GOOD))

    with pytest.raises(ConfigurationError, match=why):
        load_settings(file, [override])


def test_the_command_runs_the_envoy_beside_this_python(tmp_path: Path) -> None:
    command = envoy_command(tmp_path / "envoy.yaml", concurrency=3)

    assert Path(command[0]).name == "envoy"
    assert command[1:5] == ["-c", str(tmp_path / "envoy.yaml"), "--concurrency", "3"]
