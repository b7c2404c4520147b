"""The method table: who may call which method and for how long, read from the descriptor set.

The same table feeds the service interceptor and the gateway's RBAC file, so the two cannot differ.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import MethodDescriptor

DEFAULT_TIMEOUT_S: Final = 30.0
MAX_TIMEOUT_S: Final = 60.0
STREAM_TIMEOUT_S: Final = 3600.0
_VERBS: Final = ("get", "put", "post", "delete", "patch")
_Idempotency: Final = descriptor_pb2.MethodOptions


@dataclass(frozen=True, slots=True)
class HttpBinding:
    """One HTTP mapping of a method, for example `get` `/v1/{name=tools/*}`.

    Attributes:
        body: As in google.api.http: the request field that the body fills, `*` for all of it, or empty.
        response_body: The field of the response that is the answer's body, or empty for all of it.
    """

    verb: str
    path: str
    body: str
    response_body: str = ""


@dataclass(frozen=True, slots=True)
class MethodRule:
    """What the descriptor set says of one method.

    Attributes:
        path: gRPC path, `/package.Service/Method`.
        roles: Roles that admit a caller.
        service_accounts: Service accounts that admit a caller by its own certificate.
        public: True when anybody who can connect may call.
        on_behalf_of: Service accounts that may act for a stored user.
        mesh_internal: True when the gateway must not route the method.
        default_timeout_s: Deadline of a call that brings none, in seconds.
        max_timeout_s: Longest deadline, in seconds.
        safe: True when the method has no side effects.
        idempotent: True when calling it twice does no more than calling it once; includes `safe`.
        http: HTTP mappings, the main one first; empty when there is none.
        rest: HTTP operations that the service itself maps to the method, on a listener of its own; their
            paths name nothing but single segments, `/v2/models/{model}`.
    """

    path: str
    roles: frozenset[str] = frozenset()
    service_accounts: frozenset[str] = frozenset()
    public: bool = False
    on_behalf_of: frozenset[str] = frozenset()
    mesh_internal: bool = False
    default_timeout_s: float = DEFAULT_TIMEOUT_S
    max_timeout_s: float = MAX_TIMEOUT_S
    safe: bool = False
    idempotent: bool = False
    client_streaming: bool = False
    server_streaming: bool = False
    http: tuple[HttpBinding, ...] = ()
    rest: tuple[HttpBinding, ...] = ()

    @property
    def service(self) -> str:
        """Full name of the service, `package.Service`."""
        return self.path[1:].partition("/")[0]

    @property
    def method(self) -> str:
        return self.path.rpartition("/")[2]


@cache
def descriptor_set_bytes() -> bytes:
    """Return the descriptor set that aegis-protos ships, with imports and comments."""
    return (files("aegis") / "descriptors.binpb").read_bytes()


@cache
def descriptor_pool_of_set() -> descriptor_pool.DescriptorPool:
    """Return a pool of the descriptor set alone, in which options parse with its own extensions."""
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(descriptor_set_bytes()).file:
        pool.Add(file)
    return pool


@cache
def method_table() -> Mapping[str, MethodRule]:
    """Return every known method by its gRPC path: ours, and those of foreign protos that we serve."""
    rules = {rule.path: rule for rule in _own_rules()} | {rule.path: rule for rule in _foreign_rules()}
    return MappingProxyType(rules)


def services_of_set() -> list[str]:
    """Return the full names of the services that the descriptor set describes, sorted."""
    described = {rule.service for rule in _foreign_rules() if rule.service not in _FOREIGN_METHODS}
    return sorted({rule.service for rule in _own_rules()} | described)


@cache
def unserved_paths() -> tuple[str, ...]:
    """Return the gRPC paths of methods that clients of foreign protocols may call and nobody here serves."""
    found = (
        f"/{service}/{method}"
        for service, access in _foreign_table().items()
        for method in access.get("unserved", ())
    )
    return tuple(sorted(found))


def _own_rules() -> Iterator[MethodRule]:
    pool = descriptor_pool_of_set()
    found = descriptor_pb2.FileDescriptorSet.FromString(descriptor_set_bytes())
    for file in found.file:
        if file.package.startswith("aegis."):
            for service in file.service:
                for method in pool.FindServiceByName(f"{file.package}.{service.name}").methods:
                    yield _rule(method)


def _option(method: MethodDescriptor, name: str) -> Any:
    pool = descriptor_pool_of_set()
    kind = message_factory.GetMessageClass(pool.FindMessageTypeByName("google.protobuf.MethodOptions"))
    options = kind.FromString(method.GetOptions().SerializeToString())
    extension: Any = pool.FindExtensionByName(name)
    return options.Extensions[extension] if options.HasExtension(extension) else None


def _rule(method: MethodDescriptor) -> MethodRule:
    access = _option(method, "aegis.common.v1.access")
    deadline = _option(method, "aegis.common.v1.deadline")
    http = _option(method, "google.api.http")
    level = method.GetOptions().idempotency_level
    streams = method.client_streaming or method.server_streaming
    default_s, max_s = (STREAM_TIMEOUT_S,) * 2 if streams else (DEFAULT_TIMEOUT_S, MAX_TIMEOUT_S)
    return MethodRule(
        path=f"/{method.containing_service.full_name}/{method.name}",
        roles=frozenset(access.roles),
        service_accounts=frozenset(access.service_accounts),
        public=access.public,
        on_behalf_of=frozenset(access.on_behalf_of),
        mesh_internal=access.mesh_internal,
        default_timeout_s=_seconds(deadline.default_timeout) if deadline else default_s,
        max_timeout_s=_seconds(deadline.max_timeout) if deadline else max_s,
        safe=level == _Idempotency.NO_SIDE_EFFECTS,
        idempotent=level in (_Idempotency.NO_SIDE_EFFECTS, _Idempotency.IDEMPOTENT),
        client_streaming=method.client_streaming,
        server_streaming=method.server_streaming,
        http=tuple(_bindings(http)) if http else (),
    )


def _bindings(rule: Any) -> Iterator[HttpBinding]:
    for binding in (rule, *rule.additional_bindings):
        verb = binding.WhichOneof("pattern")
        if verb in _VERBS:
            yield HttpBinding(verb, getattr(binding, verb), binding.body, binding.response_body)


def _seconds(duration: Any) -> float:
    return float(duration.seconds) + float(duration.nanos) / 1e9


_FOREIGN_METHODS: Final[dict[str, dict[str, bool]]] = {
    "grpc.health.v1.Health": {"Check": False, "Watch": True, "List": False},
    "grpc.reflection.v1.ServerReflection": {"ServerReflectionInfo": True},
    "grpc.reflection.v1alpha.ServerReflection": {"ServerReflectionInfo": True},
}
"""Methods of services that the descriptor set lacks, and whether they stream; all of them are safe."""


def _foreign_table() -> dict[str, Any]:
    table: dict[str, Any] = json.loads((files("aegis") / "foreign_access.json").read_text(encoding="utf-8"))
    return table


def _foreign_rules() -> Iterator[MethodRule]:
    for service, access in _foreign_table().items():
        if service in _FOREIGN_METHODS:
            for method, streams in _FOREIGN_METHODS[service].items():
                both = streams and "Reflection" in service
                yield _foreign_rule(f"/{service}/{method}", {"safe": True, **access}, both, streams)
            continue
        for described in descriptor_pool_of_set().FindServiceByName(service).methods:
            entry = access["methods"][described.name]
            path = f"/{service}/{described.name}"
            yield _foreign_rule(path, entry, described.client_streaming, described.server_streaming)


def _foreign_rule(
    path: str, access: Mapping[str, Any], client_streaming: bool, server_streaming: bool
) -> MethodRule:
    streams = client_streaming or server_streaming
    default_s, max_s = (STREAM_TIMEOUT_S,) * 2 if streams else (DEFAULT_TIMEOUT_S, MAX_TIMEOUT_S)
    safe = bool(access.get("safe", False))
    return MethodRule(
        path=path,
        roles=frozenset(access.get("roles", ())),
        service_accounts=frozenset(access.get("service_accounts", ())),
        public=bool(access.get("public", False)),
        safe=safe,
        idempotent=safe or bool(access.get("idempotent", False)),
        client_streaming=client_streaming,
        server_streaming=server_streaming,
        default_timeout_s=float(access.get("default_timeout_s", default_s)),
        max_timeout_s=float(access.get("max_timeout_s", max_s)),
        rest=tuple(_rest_binding(text) for text in access.get("rest", ())),
    )


def _rest_binding(text: str) -> HttpBinding:
    verb, _, path = text.partition(" ")
    return HttpBinding(verb.lower(), path, "*" if verb == "POST" else "")
