"""JSON values and bytes between an agent and its workers."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final, NoReturn

from aegis.agent.v1 import worker_service_pb2 as pb
from aegis_agent.domain.content import Content

MAX_DEPTH: Final = 100
_LARGE_BYTES: Final = 128 << 10
_ENCODER: Final = json.JSONEncoder(allow_nan=False, ensure_ascii=False, separators=(",", ":"))


class ValueFault(ValueError):
    """A message that holds no value, or a value that has no JSON form."""


def to_message(value: Any) -> pb.WorkerValue:
    """Return *value* as a message.

    Raises:
        ValueFault: It holds anything but JSON values and bytes.
    """
    blobs: list[pb.WorkerBlob] = []
    try:
        return pb.WorkerValue(json=_ENCODER.encode(_bare(value, "", blobs)), blobs=blobs)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueFault(str(error)[:200]) from error


async def from_message(message: pb.WorkerValue) -> Any:
    """Return the value of a message; a large one is read in a thread.

    Raises:
        ValueFault: It is broken; nothing that the other side sends can do more harm than this.
    """
    if len(message.json) > _LARGE_BYTES:
        return await asyncio.to_thread(_read, message)
    return _read(message)


def blob(data: bytes, pointer: str = "") -> pb.WorkerBlob:
    """Return bytes as a message, with what is known about them."""
    return pb.WorkerBlob(
        pointer=pointer,
        data=bytes(data),
        media_type=getattr(data, "media_type", ""),
        filename=getattr(data, "filename", ""),
    )


def _bare(value: Any, pointer: str, blobs: list[pb.WorkerBlob]) -> Any:
    if isinstance(value, bytes):
        blobs.append(blob(value, pointer))
        return None
    if isinstance(value, dict):
        return {name: _bare(item, f"{pointer}/{_escaped(name)}", blobs) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_bare(item, f"{pointer}/{index}", blobs) for index, item in enumerate(value)]
    return value


def _read(message: pb.WorkerValue) -> Any:
    try:
        holder = {"value": json.loads(message.json, parse_constant=_no_number)}
        _check_depth(holder["value"])
        for item in message.blobs:
            _place(holder, item)
        return holder["value"]
    except (ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
        raise ValueFault(str(error)[:200] or type(error).__name__) from error


def _place(holder: dict[str, Any], item: pb.WorkerBlob) -> None:
    if item.pointer and not item.pointer.startswith("/"):
        raise ValueFault(f"{item.pointer[:80]!r} is no JSON pointer")
    target: Any = holder
    step: str | int = "value"
    for text in item.pointer.split("/")[1:]:
        target = target[step]
        step = int(text) if isinstance(target, list) else text.replace("~1", "/").replace("~0", "~")
    if target[step] is not None:
        raise ValueFault(f"raw bytes at {item.pointer[:80]!r}, where something else stands")
    described = item.media_type or item.filename
    target[step] = Content(item.data, item.media_type, item.filename) if described else item.data


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for item in level
            if isinstance(item, dict | list)
            for inner in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return
    raise ValueFault(f"the value is nested more than {MAX_DEPTH} deep")


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _no_number(text: str) -> NoReturn:
    raise ValueFault(f"{text} is no JSON")
