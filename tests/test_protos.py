"""The build refuses protos that do not say who may call."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from google.protobuf import descriptor_pb2

from aegis.common.v1 import access_pb2
from aegis_common.rpc.access import descriptor_set_bytes, method_table

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "protos" / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _changed(change: Callable[[descriptor_pb2.MethodOptions], None]) -> bytes:
    """Return the descriptor set with another set of options for GetIntensity."""
    found = descriptor_pb2.FileDescriptorSet.FromString(descriptor_set_bytes())
    for file in found.file:
        for service in file.service:
            for method in service.method:
                if method.name == "GetIntensity":
                    change(method.options)
    return found.SerializeToString()


def _check(build: ModuleType, data: bytes, folder: Path) -> None:
    path = folder / "descriptors.binpb"
    path.write_bytes(data)
    build.check_access(path)


def test_the_protos_as_they_are_pass(build: ModuleType, tmp_path: Path) -> None:
    _check(build, descriptor_set_bytes(), tmp_path)


def test_a_method_without_an_access_rule_fails_the_build_by_name(build: ModuleType, tmp_path: Path) -> None:
    data = _changed(lambda options: options.ClearExtension(access_pb2.access))

    with pytest.raises(SystemExit, match=r"aegis\.carbon\.v1\.CarbonService\.GetIntensity"):
        _check(build, data, tmp_path)


def test_an_unknown_role_fails_the_build_by_name(build: ModuleType, tmp_path: Path) -> None:
    data = _changed(lambda options: options.Extensions[access_pb2.access].roles.append("emperor"))

    with pytest.raises(SystemExit, match="emperor"):
        _check(build, data, tmp_path)


def test_no_service_account_acts_for_users_without_being_admitted(build: ModuleType, tmp_path: Path) -> None:
    data = _changed(lambda options: options.Extensions[access_pb2.access].on_behalf_of.append("stranger"))

    with pytest.raises(SystemExit, match="stranger"):
        _check(build, data, tmp_path)


def _foreign(change: Callable[[descriptor_pb2.ServiceDescriptorProto], object]) -> bytes:
    """Return the descriptor set with another inference service."""
    found = descriptor_pb2.FileDescriptorSet.FromString(descriptor_set_bytes())
    for file in found.file:
        for service in file.service:
            if service.name == "GRPCInferenceService":
                change(service)
    return found.SerializeToString()


def test_a_foreign_method_that_the_table_lacks_fails_the_build_by_name(
    build: ModuleType, tmp_path: Path
) -> None:
    def add(service: descriptor_pb2.ServiceDescriptorProto) -> None:
        service.method.add(
            name="TraceSetting",
            input_type=".inference.ServerLiveRequest",
            output_type=".inference.ServerLiveResponse",
        )

    with pytest.raises(SystemExit, match=r"GRPCInferenceService\.TraceSetting: no entry"):
        _check(build, _foreign(add), tmp_path)


def test_an_entry_for_a_foreign_method_that_is_not_there_fails_the_build(
    build: ModuleType, tmp_path: Path
) -> None:
    data = _foreign(lambda service: service.method.pop())

    with pytest.raises(SystemExit, match=r"RepositoryModelUnload: in foreign_access\.json"):
        _check(build, data, tmp_path)


def test_rules_of_foreign_methods_come_from_the_table_and_their_shape_from_the_proto() -> None:
    table = method_table()
    infer = table["/inference.GRPCInferenceService/ModelInfer"]
    stream = table["/inference.GRPCInferenceService/ModelStreamInfer"]
    load = table["/inference.GRPCInferenceService/RepositoryModelLoad"]

    assert (set(infer.roles), infer.safe, infer.max_timeout_s) == (
        {"operator", "trainer", "admin"},
        True,
        600.0,
    )
    assert (stream.client_streaming, stream.server_streaming, stream.default_timeout_s) == (True, True, 3600)
    assert (set(load.roles), load.safe, load.idempotent) == ({"trainer", "admin"}, False, True)
