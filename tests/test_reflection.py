"""Reflection with the sequence of calls that grpcurl makes: v1 first, then v1alpha."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_reflection.v1alpha import reflection_pb2

from aegis_common.rpc.reflection import public_services
from stack_support import Stack

Request = reflection_pb2.ServerReflectionRequest
VERSIONS = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")


def _ask(
    channel: grpc.Channel, version: str, *requests: Request
) -> list[reflection_pb2.ServerReflectionResponse]:
    call = channel.stream_stream(
        f"/{version}/ServerReflectionInfo",
        request_serializer=Request.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    return list(call(iter(requests), timeout=20))


@pytest.fixture(scope="module")
def channel(stack: Stack) -> Iterator[grpc.Channel]:
    channel = stack.channel("machines", "debugger")
    yield channel
    channel.close()


@pytest.mark.parametrize("version", VERSIONS)
def test_the_public_services_are_listed_at_the_gateway(channel: grpc.Channel, version: str) -> None:
    (answer,) = _ask(channel, version, Request(list_services=""))
    names = {service.name for service in answer.list_services_response.service}

    assert set(public_services()) <= names
    assert "aegis.fl.v1.RoundService" not in names


@pytest.mark.parametrize("version", VERSIONS)
def test_describe_finds_a_method_and_all_files_that_it_needs(channel: grpc.Channel, version: str) -> None:
    symbol = "aegis.carbon.v1.CarbonService"
    (answer,) = _ask(channel, version, Request(file_containing_symbol=symbol))
    found: dict[str, descriptor_pb2.FileDescriptorProto] = {}
    _collect(answer, found)
    while missing := {name for file in found.values() for name in file.dependency} - set(found):
        for answer in _ask(channel, version, *(Request(file_by_filename=name) for name in sorted(missing))):
            _collect(answer, found)

    assert "CheckSchedule" in {
        method.name for file in found.values() for service in file.service for method in service.method
    }


def _collect(
    answer: reflection_pb2.ServerReflectionResponse, found: dict[str, descriptor_pb2.FileDescriptorProto]
) -> None:
    assert answer.HasField("file_descriptor_response"), answer
    for data in answer.file_descriptor_response.file_descriptor_proto:
        file = descriptor_pb2.FileDescriptorProto.FromString(data)
        found[file.name] = file


def test_an_unknown_symbol_is_said_to_be_unknown(channel: grpc.Channel) -> None:
    (answer,) = _ask(channel, VERSIONS[0], Request(file_containing_symbol="aegis.nothing.v1.Service"))

    assert grpc.StatusCode.NOT_FOUND.value[0] == answer.error_response.error_code
