"""Comments and custom options of the descriptor set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, Final

from google.protobuf import descriptor_pb2, message_factory
from google.protobuf.descriptor import FieldDescriptor

from aegis_common.rpc.access import descriptor_pool_of_set, descriptor_set_bytes

REQUIRED: Final = 2
OUTPUT_ONLY: Final = 3

_Path = tuple[int, ...]
_MESSAGE, _ENUM, _SERVICE = 4, 5, 6
_FIELD, _NESTED, _NESTED_ENUM, _VALUE, _METHOD = 2, 3, 4, 2, 2


def option(thing: Any, kind: str, extension: str) -> Any:
    """Return the value of a custom option of a descriptor, or None when it is not set.

    Args:
        thing: Any descriptor.
        kind: `FieldOptions`, `MethodOptions` or `OneofOptions`.
        extension: Full name of the option.
    """
    pool = descriptor_pool_of_set()
    options_class = message_factory.GetMessageClass(pool.FindMessageTypeByName(f"google.protobuf.{kind}"))
    options = options_class.FromString(thing.GetOptions().SerializeToString())
    descriptor: Any = pool.FindExtensionByName(extension)
    if descriptor.is_repeated:
        return list(options.Extensions[descriptor])
    return options.Extensions[descriptor] if options.HasExtension(descriptor) else None


def behaviours(field: FieldDescriptor) -> Sequence[int]:
    """Return the `google.api.field_behavior` values of a field."""
    found: Sequence[int] = option(field, "FieldOptions", "google.api.field_behavior")
    return found


@cache
def comments() -> dict[str, str]:
    """Return the leading comment of every commented element, by full name."""
    found = descriptor_pb2.FileDescriptorSet.FromString(descriptor_set_bytes())
    result: dict[str, str] = {}
    for file in found.file:
        names = dict(_names(file))
        for location in file.source_code_info.location:
            name = names.get(tuple(location.path))
            if name and location.leading_comments:
                lines = [line.strip() for line in location.leading_comments.strip().splitlines()]
                result[name] = "\n".join(lines)
    return result


def _names(file: descriptor_pb2.FileDescriptorProto) -> Iterator[tuple[_Path, str]]:
    for index, message in enumerate(file.message_type):
        yield from _message(message, (_MESSAGE, index), file.package)
    for index, enum in enumerate(file.enum_type):
        yield from _enum(enum, (_ENUM, index), file.package)
    for index, service in enumerate(file.service):
        yield (_SERVICE, index), f"{file.package}.{service.name}"
        for number, method in enumerate(service.method):
            yield (_SERVICE, index, _METHOD, number), f"{file.package}.{service.name}.{method.name}"


def _message(message: descriptor_pb2.DescriptorProto, path: _Path, scope: str) -> Iterator[tuple[_Path, str]]:
    name = f"{scope}.{message.name}"
    yield path, name
    for index, field in enumerate(message.field):
        yield (*path, _FIELD, index), f"{name}.{field.name}"
    for index, nested in enumerate(message.nested_type):
        yield from _message(nested, (*path, _NESTED, index), name)
    for index, enum in enumerate(message.enum_type):
        yield from _enum(enum, (*path, _NESTED_ENUM, index), name)


def _enum(enum: descriptor_pb2.EnumDescriptorProto, path: _Path, scope: str) -> Iterator[tuple[_Path, str]]:
    name = f"{scope}.{enum.name}"
    yield path, name
    for index, value in enumerate(enum.value):
        yield (*path, _VALUE, index), f"{name}.{value.name}"
