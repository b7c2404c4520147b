"""One route for each public gRPC method: where it goes, how long it may take, whether it is retried."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from aegis_common.rpc.access import MethodRule, descriptor_pool_of_set
from aegis_gateway import http_template
from aegis_gateway.errors import GatewayConfigInvalid
from aegis_gateway.tree import Tree

CLUSTERS: Final = {
    "aegis.agent.": "agent",
    "aegis.carbon.": "carbon",
    "aegis.fl.": "fl-coordinator",
    # One process that knows all descriptors answers for the whole API.
    "grpc.reflection.": "agent",
    "grpc.health.": "agent",
}
"""Cluster of each package."""

_OFF: Final = {"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": True}
_PREVIOUS_HOSTS: Final = (
    "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
)
# Envoy's idle timer must not fire before the deadline that it stands beside.
_IDLE_SLACK_S: Final = 5.0


def cluster_of(service: str) -> str:
    """Return the cluster that serves *service* (full name).

    Raises:
        GatewayConfigInvalid: No cluster is known for its package.
    """
    for package, cluster in CLUSTERS.items():
        if service.startswith(package):
            return cluster
    raise GatewayConfigInvalid("no cluster is known for a service", [service])


def grpc_routes(rules: Iterable[MethodRule]) -> list[Tree]:
    """Return the routes of all methods that are not mesh-internal, by exact gRPC path, sorted."""
    return [_grpc_route(rule) for rule in sorted(rules, key=lambda rule: rule.path) if not rule.mesh_internal]


def inline_routes(rules: Iterable[MethodRule]) -> list[Tree]:
    """Return the HTTP routes with the larger body limit: those of methods that take raw bytes."""
    return [
        {
            "name": f"inline {binding.path}",
            "match": {"safe_regex": {"regex": http_template.parse(binding.path).regex}},
            "route": {"cluster": cluster_of(rule.service), "timeout": "0s"},
            "typed_per_filter_config": {"body_limit_json": _OFF},
        }
        for rule in sorted(rules, key=lambda rule: rule.path)
        if not rule.mesh_internal and rule.http and takes_bytes(rule)
        for binding in rule.http
        if binding.body
    ]


def takes_bytes(rule: MethodRule) -> bool:
    """Return whether the request of a method of ours holds a `bytes` field at any depth."""
    service = descriptor_pool_of_set().FindServiceByName(rule.service)
    return _holds_bytes(service.methods_by_name[rule.method].input_type, set())


def _holds_bytes(message: Descriptor, seen: set[str]) -> bool:
    if message.full_name in seen:
        return False
    seen.add(message.full_name)
    return any(
        field.type == FieldDescriptor.TYPE_BYTES
        or (field.message_type is not None and _holds_bytes(field.message_type, seen))
        for field in message.fields
    )


def _grpc_route(rule: MethodRule) -> Tree:
    return {
        "name": rule.path[1:],
        "match": {"path": rule.path},
        "route": {
            "cluster": cluster_of(rule.service),
            "timeout": "0s",
            "idle_timeout": duration(rule.max_timeout_s + _IDLE_SLACK_S),
            "max_stream_duration": {
                "max_stream_duration": duration(rule.default_timeout_s),
                "grpc_timeout_header_max": duration(rule.max_timeout_s),
            },
            "retry_policy": _retry_policy(rule),
        },
        # Native gRPC: the service's own message limit answers, with a status that gRPC clients understand.
        "typed_per_filter_config": {"body_limit_json": _OFF, "body_limit_inline": _OFF},
    }


def _retry_policy(rule: MethodRule) -> Tree:
    """Retry what the upstream never saw; more only where a second call has no effect."""
    unary = not (rule.client_streaming or rule.server_streaming)
    more = ",reset,unavailable" if rule.safe and unary else ""
    return {
        "retry_on": "connect-failure,refused-stream" + more,
        "num_retries": 2,
        "retry_back_off": {"base_interval": "0.025s", "max_interval": "0.25s"},
        "retry_host_predicate": [
            {"name": "envoy.retry_host_predicates.previous_hosts", "typed_config": {"@type": _PREVIOUS_HOSTS}}
        ],
        "host_selection_retry_max_attempts": 3,
    }


def duration(seconds: float) -> str:
    """Return *seconds* as protobuf JSON writes a duration."""
    return f"{seconds:.3f}".rstrip("0").rstrip(".") + "s"
