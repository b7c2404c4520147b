"""One route for each public gRPC method: where it goes, how long it may take, whether it is retried."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor

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
    "inference.": "agent",
}
"""Cluster of each package."""

HTTP_BODY: Final = "google.api.HttpBody"
"""The message that stands for a body as it is, which the transcoder passes on piece by piece."""

_OFF: Final = {"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": True}
_PREVIOUS_HOSTS: Final = (
    "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
)
_LIMITS: Final = ("body_limit_json", "body_limit_inline", "body_limit_raw")
_FORM: Final = {"name": "content-type", "string_match": {"prefix": "multipart/", "ignore_case": True}}
_NO_FORM: Final = "send the content itself, not a form: curl --data-binary @FILE"
# What somebody uploaded is never shown as a page of ours.
_CONTENT_HEADERS: Final = [
    {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
    for name, value in (("content-disposition", "attachment"), ("x-content-type-options", "nosniff"))
]
# A dead host looks idle, so that of two hosts three draws in four are of it.
_DRAWS: Final = 32
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


def inline_routes(rules: Iterable[MethodRule], *, events: Tree) -> list[Tree]:
    """Return the HTTP routes with the larger body limit: those of methods that take raw bytes.

    Args:
        rules: All methods.
        events: The route of whoever wants streams as events; streams that take raw bytes get one like it.
    """
    found: list[Tree] = []
    for rule in sorted(rules, key=lambda rule: rule.path):
        if rule.mesh_internal or not rule.http or not takes_bytes(rule):
            continue
        for binding in (item for item in rule.http if item.body):
            path = {"safe_regex": {"regex": http_template.parse(binding.path).regex}}
            route = {"cluster": cluster_of(rule.service), "timeout": "0s"}
            if rule.server_streaming:
                wanted = copy.deepcopy(events)
                found.append(
                    {
                        "name": f"inline events {binding.path}",
                        "match": {**path, "headers": wanted["match"]["headers"]},
                        "route": route,
                        "typed_per_filter_config": {
                            **wanted["typed_per_filter_config"],
                            "body_limit_json": _OFF,
                        },
                    }
                )
            found.append(
                {
                    "name": f"inline {binding.path}",
                    "match": path,
                    "route": route,
                    "typed_per_filter_config": {"body_limit_json": _OFF},
                }
            )
    return found


def raw_routes(rules: Iterable[MethodRule]) -> list[Tree]:
    """Return the HTTP routes of methods whose body is the content itself, of any media type but a form's."""
    found: list[Tree] = []
    for rule in sorted(rules, key=lambda rule: rule.path):
        for binding in rule.http if not rule.mesh_internal and takes_raw_body(rule) else ():
            verb = {"name": ":method", "string_match": {"exact": binding.verb.upper()}}
            path = {"safe_regex": {"regex": http_template.parse(binding.path).regex}}
            found += [
                {
                    "name": f"form {binding.path}",
                    "match": {**path, "headers": [verb, _FORM]},
                    "direct_response": {"status": 415, "body": {"inline_string": _NO_FORM}},
                    "typed_per_filter_config": dict.fromkeys(("transcoder", "rbac", *_LIMITS), _OFF),
                },
                {
                    "name": f"raw {binding.path}",
                    "match": {**path, "headers": [verb]},
                    "route": {
                        "cluster": cluster_of(rule.service),
                        "timeout": "0s",
                        "idle_timeout": duration(rule.max_timeout_s + _IDLE_SLACK_S),
                    },
                    "typed_per_filter_config": {"body_limit_json": _OFF, "body_limit_inline": _OFF},
                },
            ]
    return found


def takes_raw_body(rule: MethodRule) -> bool:
    """Return whether the HTTP body of a method of ours is the content itself."""
    return any(
        _field_type(method_of(rule).input_type, binding.body) == HTTP_BODY
        for binding in rule.http
        if binding.body
    )


def gives_raw_body(rule: MethodRule) -> bool:
    """Return whether the HTTP answer of a method is the content itself."""
    return any(
        _field_type(method_of(rule).output_type, binding.response_body) == HTTP_BODY for binding in rule.http
    )


def method_of(rule: MethodRule) -> MethodDescriptor:
    """Return the descriptor of a method of the descriptor set."""
    found: MethodDescriptor = (
        descriptor_pool_of_set().FindServiceByName(rule.service).methods_by_name[rule.method]
    )
    return found


def _field_type(message: Descriptor, name: str) -> str:
    """Return the full name of the message in field *name*; `*` and empty mean the message itself."""
    if name in ("", "*"):
        return str(message.full_name)
    inner = message.fields_by_name[name].message_type
    return str(inner.full_name) if inner is not None else ""


def takes_bytes(rule: MethodRule) -> bool:
    """Return whether the request of a method of ours holds a `bytes` field at any depth."""
    return not takes_raw_body(rule) and _holds_bytes(method_of(rule).input_type, set())


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
    extra = {"response_headers_to_add": _CONTENT_HEADERS} if rule.http and gives_raw_body(rule) else {}
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
        "typed_per_filter_config": {
            "body_limit_json": _OFF,
            "body_limit_inline": _OFF,
            "body_limit_raw": _OFF,
        },
        **extra,
    }


def _retry_policy(rule: MethodRule) -> Tree:
    """Retry what the upstream never saw; more only where a second call has no effect."""
    unary = not (rule.client_streaming or rule.server_streaming)
    more = ",reset,unavailable" if rule.safe and unary else ""
    return {
        "retry_on": "connect-failure,refused-stream,reset-before-request" + more,
        "num_retries": 2,
        "retry_back_off": {"base_interval": "0.025s", "max_interval": "0.25s"},
        "retry_host_predicate": [
            {"name": "envoy.retry_host_predicates.previous_hosts", "typed_config": {"@type": _PREVIOUS_HOSTS}}
        ],
        "host_selection_retry_max_attempts": _DRAWS,
    }


def duration(seconds: float) -> str:
    """Return *seconds* as protobuf JSON writes a duration."""
    return f"{seconds:.3f}".rstrip("0").rstrip(".") + "s"
