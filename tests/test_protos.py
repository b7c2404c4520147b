"""The build refuses protos that do not say who may call."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from google.protobuf import descriptor_pb2

from aegis.common.v1 import access_pb2
from aegis_common.rpc.access import descriptor_set_bytes

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
