"""Tools that misbehave on purpose, and simple ones; children import this module by its name."""

from __future__ import annotations

import asyncio
import ctypes
import mmap
import os
import socket
import struct
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from aegis_agent import ToolInputError, tool


class Item(BaseModel):
    name: str
    count: int = Field(ge=0)


class Basket(BaseModel):
    items: list[Item]
    total: int


def add(a: int, b: int = 1) -> int:
    return a + b


def count_items(items: list[Item], kind: Literal["all", "some"] = "all") -> Basket:
    """Counts the items of a basket.

    Not part of the description.
    """
    counted = items if kind == "all" else items[:1]
    return Basket(items=items, total=sum(item.count for item in counted))


def join(data: bytes, *, text: str = "", extra: bytes | None = None) -> bytes:
    return data + text.encode() + (extra or b"")


def describe_day(day: date) -> dict[str, Any]:
    return {"day": day, "raw": b"\x00\xff", "values": (1, 2)}


def ratio(share: Annotated[float, Field(ge=0, le=1)]) -> float:
    return share


def spin(pid_file: str = "") -> int:
    if pid_file:
        Path(pid_file).write_text(str(os.getpid()))
    while True:
        pass


def burn(seconds: float) -> int:
    begun, turns = time.process_time(), 0
    while time.process_time() - begun < seconds:
        turns += 1
    return turns


def burn_and_fail(seconds: float) -> int:
    burn(seconds)
    raise RuntimeError("no")


def burn_for_ever() -> int:
    return burn(60.0)


def spin_with_descendants(pid_file: str) -> int:
    """Leave one child in the process group and one that has left it."""
    code = "import time; time.sleep(600)"
    inside = subprocess.Popen([sys.executable, "-c", code])
    outside = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    part = Path(pid_file + ".part")
    part.write_text(f"{os.getpid()} {inside.pid} {outside.pid}")
    part.rename(pid_file)
    while True:
        pass


def own_pid() -> int:
    return os.getpid()


def crash() -> int:
    ctypes.string_at(0)
    return 1


def leave() -> int:
    os._exit(3)


def hang_up() -> int:
    """Close every connection and stay alive."""
    os.closerange(3, 256)
    time.sleep(600)
    return 1


def stall_half_way() -> int:
    """Send the head of an answer and never its body."""
    for number in range(3, 256):
        try:
            os.write(number, b"AEG1\x00\x00\x01\x00\x00\x00\x00\x00{")
        except OSError:
            continue
    time.sleep(600)
    return 1


def speak_nonsense() -> int:
    for number in range(3, 256):
        try:
            os.write(number, b"\x00\x00\x00\x04\x00\x00\x00\x00[1]]")
        except OSError:
            continue
    time.sleep(600)
    return 1


def make_bytes(size: int) -> bytes:
    return bytes(size)


def fail(message: str = "no luck") -> int:
    raise ValueError(message)


def refuse(value: int) -> int:
    raise ToolInputError(f"{value} is unlucky", path="value", rule="luck")


def wrong_type() -> int:
    return "many"  # type: ignore[return-value]


def not_a_number() -> float:
    return float("nan")


def allocate(mebibytes: int) -> int:
    return len(bytearray(mebibytes << 20))


def write_file(mebibytes: int) -> int:
    with tempfile.TemporaryFile() as file:
        return file.write(bytes(mebibytes << 20))


def open_sockets(count: int) -> int:
    return len([socket.socket() for _ in range(count)])


def visible_settings() -> list[str]:
    return sorted(name for name in os.environ if name.startswith("AEGIS_"))  # noqa: TID251  # that is the test


def slow(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


async def wait(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


async def async_fail() -> int:
    raise TimeoutError("its own")


async def async_bytes(size: int) -> bytes:
    return bytes(size)


@tool(version="2.1.0", description="Doubles.", idempotent=True, concurrency=3)
def double(value: int) -> int:
    return value * 2


def broken_warm_up() -> None:
    raise RuntimeError("the model is missing")


@tool(warm_up=broken_warm_up)
def never_ready() -> int:
    return 1


_kept: list[bytes] = []


def keep(mebibytes: int) -> int:
    """Leak memory; return the process id."""
    _kept.append(b"x" * (mebibytes << 20))
    return os.getpid()


def own_pid_slowly() -> int:
    time.sleep(0.05)
    return os.getpid()


def make_zeros(count: int) -> Any:
    return [0] * count


def crash_at_first(marks: str, times: int) -> int:
    """End the process the first *times* times; then return how often it was started."""
    number = len(list(Path(marks).iterdir())) + 1
    (Path(marks) / str(number)).touch()
    if number <= times:
        os._exit(3)
    return number


def tick(path: str = "") -> int:
    """Return at once; or spin for ever, and note in the 8 bytes at *path* the monotonic time of each turn."""
    if not path:
        return 1
    with Path(path).open("r+b") as file, mmap.mmap(file.fileno(), 8) as page:
        while True:
            struct.pack_into("d", page, 0, time.monotonic())
