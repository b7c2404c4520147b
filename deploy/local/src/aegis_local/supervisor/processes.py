"""Finds and ends every process of a stack: by session, by parent, and by a mark in its environment.

Standard library only: the guard runs it when nothing else is left.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

MARK: Final = "AEGIS_LOCAL_STACK"
"""Environment variable of every process of a stack; its value is the state directory."""
SERVICE: Final = "AEGIS_LOCAL_SERVICE"
"""Environment variable that names the service a process belongs to."""
_PROC: Final = Path("/proc")


def marked(stack: str, *, service: str | None = None) -> set[int]:
    """Return the processes whose environment says that they belong to *stack* (and to *service*)."""
    wanted = {f"{MARK}={stack}".encode()}
    if service is not None:
        wanted.add(f"{SERVICE}={service}".encode())
    found = set()
    for pid in _pids():
        with contextlib.suppress(OSError):
            if wanted <= set((_PROC / str(pid) / "environ").read_bytes().split(b"\0")):
                found.add(pid)
    return found - {os.getpid()}


def with_descendants(roots: Iterable[int]) -> set[int]:
    """Return the live ones of *roots*, everything they started, and the members of the sessions they lead."""
    roots = set(roots)
    live = {pid: entry for pid, entry in _table().items() if entry.state != "Z"}
    family = {pid for pid, entry in live.items() if pid in roots or entry.session in roots}
    grown = True
    while grown:
        more = {pid for pid, entry in live.items() if entry.parent in family} - family
        family |= more
        grown = bool(more)
    return family - {os.getpid()}


def zombie_children() -> set[int]:
    """Return the children of this process that have ended and were not collected."""
    return {pid for pid, entry in _table().items() if entry.state == "Z" and entry.parent == os.getpid()}


def signal_all(pids: Iterable[int], number: signal.Signals) -> None:
    """Send a signal to each process that still lives."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def kill_stack(stack: str, *, within: float = 10.0) -> set[int]:
    """Kill every process of *stack* and return those that were found; gives up after *within* seconds."""
    killed: set[int] = set()
    end = time.monotonic() + within
    while family := with_descendants(marked(stack)):
        killed |= family
        signal_all(family, signal.SIGKILL)
        if time.monotonic() > end:
            break
        time.sleep(0.05)
    return killed


class _Entry(NamedTuple):
    state: str
    parent: int
    session: int


def _table() -> dict[int, _Entry]:
    table = {}
    for pid in _pids():
        with contextlib.suppress(OSError, ValueError, IndexError):
            # The name in parentheses may hold spaces; the fields after it do not.
            fields = (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
            table[pid] = _Entry(fields[0], int(fields[1]), int(fields[3]))
    return table


def _pids() -> list[int]:
    return [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit()]
