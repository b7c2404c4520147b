"""`validate` says why: once for each kind of mistake, planted in files that are right otherwise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from aegis_common.rpc.access import method_table
from aegis_common.testing.pki import Mesh
from aegis_gateway.config import GatewaySettings, render, validate
from aegis_gateway.errors import GatewayConfigInvalid
from aegis_gateway.flatten import flatten
from aegis_gateway.proofs import faults
from aegis_gateway.tree import Tree, walk

DISPATCH = "/aegis.agent.v1.AgentService/Dispatch"
AWAIT = "/aegis.fl.v1.RoundService/AwaitRound"


def test_what_render_writes_is_valid(settings: GatewaySettings, tmp_path: Path) -> None:
    render(settings, tmp_path)

    validate(tmp_path)


@pytest.mark.parametrize(
    ("file", "old", "new", "why"),
    [
        ("lds.yaml", "stream_idle_timeout", "strem_idle_timeout", "strem_idle_timeout"),
        ("rds_people.yaml", "cluster: carbon", "cluster: carbonn", "carbonn"),
        ("rds_machines.yaml", "safe_regex:", "safe_regexp:", "safe_regexp"),
        ("ecds/jwt.yaml", "provider_name: issuer", "provider_name: isuer", "isuer"),
        ("sds/gateway_cert.yaml", "gateway.crt", "nowhere.crt", "nowhere.crt"),
        ("lds.yaml", "name: client_trust", "name: client_trusst", "client_trusst"),
        ("lds.yaml", "%DURATION%", "%DURATIO%", "DURATIO"),
    ],
)
def test_envoys_own_reason_reaches_the_user(
    settings: GatewaySettings, tmp_path: Path, file: str, old: str, new: str, why: str
) -> None:
    render(settings, tmp_path)
    text = (tmp_path / file).read_text()
    if old not in text and file == "sds/gateway_cert.yaml":
        old = settings.tls.cert.name
    assert old in text
    (tmp_path / file).write_text(text.replace(old, new))

    with pytest.raises(GatewayConfigInvalid, match=why):
        validate(tmp_path)


def test_a_certificate_that_does_not_belong_to_its_key_is_named(
    settings: GatewaySettings, mesh: Mesh, tmp_path: Path
) -> None:
    wrong = settings.tls.model_copy(update={"key": mesh.tls("agent").key})
    render(settings.model_copy(update={"tls": wrong}), tmp_path)

    with pytest.raises(GatewayConfigInvalid, match=r"(?i)key.*match|mismatch"):
        validate(tmp_path)


def test_a_missing_file_is_named(settings: GatewaySettings, tmp_path: Path) -> None:
    render(settings, tmp_path)
    (tmp_path / "cds.yaml").unlink()

    with pytest.raises(GatewayConfigInvalid, match=r"cds\.yaml"):
        validate(tmp_path)


def _manager(static: Tree, listener: str) -> Tree:
    found = next(each for each in static["static_resources"]["listeners"] if each["name"] == listener)
    manager: Tree = found["filter_chains"][0]["filters"][0]["typed_config"]
    return manager


def _policies(static: Tree, listener: str) -> Tree:
    filters = _manager(static, listener)["http_filters"]
    policies: Tree = next(each for each in filters if each["name"] == "rbac")["typed_config"]["rules"][
        "policies"
    ]
    return policies


def _routes(static: Tree, listener: str) -> list[Tree]:
    routes: list[Tree] = _manager(static, listener)["route_config"]["virtual_hosts"][0]["routes"]
    return routes


def _drop_policy(static: Tree) -> None:
    del _policies(static, "people")[DISPATCH[1:]]


def _mistype_policy(static: Tree) -> None:
    _policies(static, "machines")[DISPATCH[1:]]["permissions"][0]["url_path"]["path"]["exact"] = (
        DISPATCH + "h"
    )


def _drop_route(static: Tree) -> None:
    routes = _routes(static, "machines")
    routes.remove(next(route for route in routes if route["match"].get("path") == DISPATCH))


def _swap_cluster(static: Tree) -> None:
    next(route for route in _routes(static, "people") if route["name"] == DISPATCH[1:])["route"][
        "cluster"
    ] = "carbon"


def _route_the_mesh(static: Tree) -> None:
    _routes(static, "people").append(
        {"name": "all", "match": {"prefix": "/aegis."}, "route": {"cluster": "agent"}}
    )


def _admit_to_the_mesh(static: Tree) -> None:
    policy = {"permissions": [{"any": True}], "principals": [{"any": True}]}
    _policies(static, "machines")["all"] = policy


def _forget_a_service(static: Tree) -> None:
    for node in walk(static):
        if "proto_descriptor" in node:
            node["services"] = [name for name in node["services"] if "Agent" not in name]


def _unknown_key_server(static: Tree) -> None:
    for node in walk(static):
        if "local_jwks" in node:
            del node["local_jwks"]
            node["remote_jwks"] = {
                "http_uri": {"uri": "https://id/jwks", "cluster": "jwkss", "timeout": "1s"}
            }


def _unknown_collector(static: Tree) -> None:
    tracing = _manager(static, "machines")["tracing"]["provider"]["typed_config"]
    tracing["grpc_service"]["envoy_grpc"]["cluster_name"] = "otell"


@pytest.mark.parametrize(
    ("plant", "why"),
    [
        (_drop_policy, f"listener people: {DISPATCH} has no RBAC policy"),
        (_mistype_policy, f"names exact '{DISPATCH}h', which no method has"),
        (_drop_route, f"listener machines: {DISPATCH} has no route"),
        (_swap_cluster, f"listener people: {DISPATCH} is not routed to cluster 'agent'"),
        (_route_the_mesh, f"listener people: {AWAIT} is for the mesh only, but route 'all' matches it"),
        (
            _admit_to_the_mesh,
            f"listener machines: {AWAIT} is for the mesh only, but policy 'all' admits callers",
        ),
        (_forget_a_service, f"listener people: {DISPATCH} has an HTTP mapping but is not transcoded"),
        (_unknown_key_server, "the key set of the token issuer names the unknown cluster 'jwkss'"),
        (_unknown_collector, "tracing names the unknown cluster 'otell'"),
    ],
)
def test_what_envoy_does_not_see_is_seen(
    settings: GatewaySettings, tmp_path: Path, plant: Callable[[Tree], None], why: str
) -> None:
    render(settings, tmp_path)
    static = flatten(tmp_path)
    before = faults(static, method_table())
    plant(static)

    assert before == []
    assert why in "\n".join(faults(static, method_table()))
