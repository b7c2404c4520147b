"""Server reflection, v1 and v1alpha: the two protocols have the same bytes under two names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import grpc
import grpc.aio
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha import reflection, reflection_pb2

from aegis_common.rpc.access import descriptor_pool_of_set, method_table, services_of_set

V1: Final = "grpc.reflection.v1.ServerReflection"
V1ALPHA: Final = "grpc.reflection.v1alpha.ServerReflection"
HEALTH: Final = "grpc.health.v1.Health"


def public_services() -> list[str]:
    """Return the services of ours that have a method which the gateway routes."""
    table = method_table().values()
    routed = {rule.service for rule in table if not rule.mesh_internal}
    return [name for name in services_of_set() if name in routed]


def add_reflection(server: grpc.aio.Server, services: Sequence[str], *, everything: bool) -> None:
    """Answer reflection for *services* or, with *everything*, for every public service of AEGIS."""
    names = [*(public_services() if everything else services), HEALTH, V1, V1ALPHA]
    servicer = reflection.aio.ReflectionServicer(names, pool=_pool())
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    for name in (V1, V1ALPHA):
        generic = grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": handler})
        server.add_generic_rpc_handlers((generic,))


def _pool() -> DescriptorPool:
    return descriptor_pool_of_set()
