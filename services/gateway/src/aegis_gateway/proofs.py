"""What Envoy does not check: that the configuration serves the descriptor set, all of it, no more."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from google.protobuf import descriptor_pb2
from google.protobuf.message import DecodeError

from aegis_common.rpc.access import MethodRule, unserved_paths
from aegis_gateway.oauth import PROTECTED_RESOURCE
from aegis_gateway.routes import cluster_of
from aegis_gateway.tree import Tree, walk

DOOR_LISTENERS: Final = ("machines", "people")
_DOCUMENTS: Final = frozenset(
    {"/openapi.json", "/descriptors.binpb", "/.well-known/oauth-protected-resource", PROTECTED_RESOURCE}
)
AGENT_HTTP: Final = {"/mcp": "agent-http", "/v2": "agent-http", "/v2/": "agent-http"}
"""Paths of the agent's HTTP listener, and their cluster; it maps them to methods of the same table."""
_PREFIXES: Final = frozenset({"/v1/fleet/", "/v2/"})


def faults(static: Tree, table: Mapping[str, MethodRule]) -> list[str]:
    """Return what is wrong with a flattened configuration, in words; nothing when it is right."""
    found = [*_unknown_clusters(static)]
    listeners = {listener["name"]: listener for listener in static["static_resources"]["listeners"]}
    for name in DOOR_LISTENERS:
        if name not in listeners:
            found.append(f"there is no listener {name!r}")
            continue
        found += _door(name, _connection_manager(listeners[name]), table)
    return found


def _connection_manager(listener: Tree) -> Tree:
    return listener["filter_chains"][0]["filters"][0]["typed_config"]  # type: ignore[no-any-return]


def _unknown_clusters(static: Tree) -> Iterator[str]:
    known = {cluster["name"] for cluster in static["static_resources"]["clusters"]}
    for node in walk(static):
        if "http_uri" in node and (name := node["http_uri"].get("cluster")) not in known:
            yield f"the key set of the token issuer names the unknown cluster {name!r}"
        if "envoy_grpc" in node and (name := node["envoy_grpc"].get("cluster_name")) not in known:
            yield f"tracing names the unknown cluster {name!r}"


def _door(name: str, manager: Tree, table: Mapping[str, MethodRule]) -> Iterator[str]:
    filters = {entry["name"]: entry["typed_config"] for entry in manager["http_filters"]}
    missing = [wanted for wanted in ("transcoder", "rbac", "jwt") if wanted not in filters]
    if missing:
        yield f"listener {name}: no filter {', '.join(missing)}"
        return
    routes = [route for host in manager["route_config"]["virtual_hosts"] for route in host["routes"]]
    policies = filters["rbac"]["rules"].get("policies", {})
    if filters["rbac"]["rules"].get("action", "ALLOW") != "ALLOW":
        yield f"listener {name}: the RBAC action is not ALLOW, so what no policy matches would be let in"
    yield from _policy_typos(name, policies, table)
    for fault in _agent_http(routes, policies):
        yield f"listener {name}: {fault}"
    transcoded = set(filters["transcoder"].get("services", ()))
    described = _described(filters["transcoder"])
    for rule in table.values():
        for fault in _method(rule, routes, policies, transcoded, described):
            yield f"listener {name}: {rule.path} {fault}"


def _method(
    rule: MethodRule,
    routes: list[Tree],
    policies: Tree,
    transcoded: set[str],
    described: set[str],
) -> Iterator[str]:
    route = next((route for route in routes if _matches(route["match"], rule.path)), None)
    allowed = [name for name, policy in policies.items() if _permits(policy, rule.path)]
    if rule.mesh_internal:
        if route is not None:
            yield f"is for the mesh only, but route {route.get('name', '?')!r} matches it"
        if allowed:
            yield f"is for the mesh only, but policy {allowed[0]!r} admits callers"
        if rule.http and rule.service in transcoded:
            yield "is for the mesh only, but it is transcoded"
        return
    if route is None:
        yield "has no route"
    elif route.get("route", {}).get("cluster") != cluster_of(rule.service):
        yield f"is not routed to cluster {cluster_of(rule.service)!r}"
    # Service accounts alone prove nothing through a gateway: a service trusts its direct peer's only.
    if not allowed and (rule.public or rule.roles):
        yield "has no RBAC policy"
    if rule.http and rule.service not in transcoded:
        yield "has an HTTP mapping but is not transcoded"
    if rule.http and rule.path not in described:
        yield "has an HTTP mapping but is not in the descriptor set that the transcoder reads"


def _agent_http(routes: list[Tree], policies: Tree) -> Iterator[str]:
    """Check that what is routed to the agent's HTTP listener needs credentials, and is routed whole."""
    routed = {path for path, cluster in AGENT_HTTP.items() if _routed(routes, path) == cluster}
    if not routed:
        return
    for path in sorted(AGENT_HTTP.keys() - routed):
        yield f"{path} is not routed to cluster {AGENT_HTTP[path]!r}, and other paths of it are"
    for path in sorted(routed):
        admitting = [policy for policy in policies.values() if _permits(policy, path)]
        if not admitting:
            yield f"{path} is routed but no RBAC policy admits anybody"
        if any(principal.get("any") is True for policy in admitting for principal in policy["principals"]):
            yield f"{path} is open to anybody; it must need a token or a certificate"


def _routed(routes: list[Tree], path: str) -> str:
    route = next((route for route in routes if _matches(route["match"], path)), {})
    cluster: str = route.get("route", {}).get("cluster", "")
    return cluster


def _policy_typos(listener: str, policies: Tree, table: Mapping[str, MethodRule]) -> Iterator[str]:
    for name, policy in policies.items():
        for kind, path in _paths(policy):
            exact = path in _DOCUMENTS or path in AGENT_HTTP or path in table or path in unserved_paths()
            known = exact if kind == "exact" else path in _PREFIXES
            if not known:
                yield f"listener {listener}: policy {name!r} names {kind} {path!r}, which no method has"


def _paths(policy: Tree) -> Iterator[tuple[str, str]]:
    for node in walk(policy.get("permissions", [])):
        if "url_path" in node:
            yield from node["url_path"]["path"].items()


def _permits(policy: Tree, path: str) -> bool:
    if any(node.get("any") is True for node in walk(policy.get("permissions", []))):
        return True
    return any(_matches({kind: text}, path) for kind, text in _paths(policy))


def _matches(match: Tree, path: str) -> bool:
    if "path" in match or "exact" in match:
        return bool(path == match.get("path", match.get("exact")))
    if "prefix" in match:
        return path.startswith(match["prefix"])
    if "safe_regex" in match:
        return re.fullmatch(match["safe_regex"]["regex"], path) is not None
    return True  # a kind of match that is not ours: count it as one, so that it is seen


def _described(transcoder: Tree) -> set[str]:
    try:
        content = Path(transcoder.get("proto_descriptor", "")).read_bytes()
        found = descriptor_pb2.FileDescriptorSet.FromString(content)
    except (OSError, DecodeError):
        return set()
    return set(_method_paths(found.file))


def _method_paths(files: Iterable[descriptor_pb2.FileDescriptorProto]) -> Iterator[str]:
    for file in files:
        for service in file.service:
            yield from (f"/{file.package}.{service.name}/{method.name}" for method in service.method)
