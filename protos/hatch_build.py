"""Build hook: compile the .proto files into gen/ before a wheel or an editable install."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).parent
# Envoy can only put an error detail into a JSON body if the descriptor set defines its type.
DESCRIPTOR_EXTRAS = ["google/rpc/error_details.proto", "google/rpc/status.proto"]
VALIDATE = "buf/validate/validate.proto"
# Served, but not ours: described, without generated code, which would collide with that of other clients of
# the same package. Who may call stands in foreign_access.json.
FOREIGN = ["inference/grpc_service.proto"]


def validate_descriptors() -> bytes:
    """Return validate.proto and its imports as a FileDescriptorSet, out of the pinned protovalidate wheel.

    No package ships the .proto text, and the registry that does may be out of reach of a build.
    """
    from google.protobuf import descriptor_pb2, descriptor_pool
    from protovalidate._gen.buf.validate import validate_pb

    main = descriptor_pb2.FileDescriptorProto.FromString(validate_pb.desc().proto.to_binary())
    result = descriptor_pb2.FileDescriptorSet()
    for well_known in ("descriptor", "duration", "field_mask", "timestamp"):
        import_module(f"google.protobuf.{well_known}_pb2")
    for name in main.dependency:
        descriptor_pool.Default().FindFileByName(name).CopyToProto(result.file.add())
    result.file.append(main)
    return result.SerializeToString()


def compile_protos(out: Path) -> None:
    """Write messages, stubs, type hints, access rules and one self-contained descriptor set under *out*.

    Raises:
        SystemExit: protoc failed, or a method has no access rule.
    """
    from grpc_tools import protoc

    googleapis = Path(import_module("google.api").__path__[0]).parents[1]
    sources = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "aegis").rglob("*.proto"))
    shutil.rmtree(out, ignore_errors=True)
    (out / "aegis").mkdir(parents=True)
    languages = [f"--{plugin}_out={out}" for plugin in ("python", "mypy")]
    services = [f"--{plugin}_out={out}" for plugin in ("grpc_python", "mypy_grpc")]
    descriptors = [
        f"--descriptor_set_out={out / 'aegis' / 'descriptors.binpb'}",
        "--include_imports",
        "--include_source_info",
    ]
    with tempfile.NamedTemporaryFile(suffix=".binpb") as validate:
        validate.write(validate_descriptors())
        validate.flush()
        common = [f"--descriptor_set_in={validate.name}", f"-I{ROOT}", f"-I{files('grpc_tools') / '_proto'}"]
        common.append(f"-I{googleapis}")
        for arguments in (
            [*languages, VALIDATE],
            [*languages, *services, *sources],
            [*descriptors, *sources, *FOREIGN, *DESCRIPTOR_EXTRAS],
        ):
            if protoc.main(["protoc", *common, *arguments]) != 0:
                raise SystemExit("protoc failed; see its messages above")
    (out / "aegis" / "py.typed").touch()
    shutil.copy(ROOT / "foreign_access.json", out / "aegis" / "foreign_access.json")
    check_access(out / "aegis" / "descriptors.binpb")


def check_access(descriptors: Path) -> None:
    """Refuse a descriptor set in which a method that we serve has no usable access rule.

    Raises:
        SystemExit: Names every method without one.
    """
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    found = descriptor_pb2.FileDescriptorSet.FromString(descriptors.read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for file in found.file:
        pool.Add(file)
    options = pool.FindMessageTypeByName("google.protobuf.MethodOptions")
    options_class = message_factory.GetMessageClass(options)
    access = pool.FindExtensionByName("aegis.common.v1.access")
    known_roles = set(json.loads((ROOT / "roles.json").read_text()))
    faults = []
    for file in found.file:
        for service in file.service if file.package.startswith("aegis.") else ():
            for method in service.method:
                name = f"{file.package}.{service.name}.{method.name}"
                rule = options_class.FromString(method.options.SerializeToString()).Extensions[access]
                if not (rule.roles or rule.service_accounts or rule.public):
                    faults.append(f"{name}: no (aegis.common.v1.access) that lets anybody in")
                faults += [f"{name}: unknown role {role!r}" for role in rule.roles if role not in known_roles]
                faults += [
                    f"{name}: {account!r} may act for users but is not admitted itself"
                    for account in rule.on_behalf_of
                    if account not in rule.service_accounts
                ]
    faults += foreign_faults(found.file, known_roles)
    if faults:
        raise SystemExit("access rules are incomplete:\n  " + "\n  ".join(faults))


def foreign_faults(described: Iterable[Any], known_roles: set[str]) -> list[str]:
    """Return what is wrong with foreign_access.json, given the files of the descriptor set."""
    table = json.loads((ROOT / "foreign_access.json").read_text())
    faults = [
        f"{service}: unknown role {role!r} in foreign_access.json"
        for service, access in table.items()
        for entry in (access, *access.get("methods", {}).values())
        for role in entry.get("roles", ())
        if role not in known_roles
    ]
    for file in described:
        for service in file.service if file.name in FOREIGN else ():
            name = f"{file.package}.{service.name}"
            stated = set(table.get(name, {}).get("methods", ()))
            methods = {method.name for method in service.method}
            faults += [
                f"{name}.{method}: no entry in foreign_access.json" for method in sorted(methods - stated)
            ]
            faults += [
                f"{name}.{method}: in foreign_access.json, but there is none"
                for method in sorted(stated - methods)
            ]
    return faults


class ProtoBuildHook(BuildHookInterface[Any]):
    """Run protoc for wheels and editable installs; an sdist ships the .proto files."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name == "wheel":
            compile_protos(ROOT / "gen")
