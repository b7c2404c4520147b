"""Inside a child: the limits that the kernel keeps, and what the child has used and left behind."""

from __future__ import annotations

import contextlib
import math
import os
import resource
import signal
import threading
from pathlib import Path
from typing import Any, Final

from aegis_agent.adapters.children.setup import WorkerLimits

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_RESERVE: Final = 16 << 20
"""Address space with which a child that ran out of it can still say so."""
_CPU_SLACK_S: Final = 2
_KILL_ROUNDS: Final = 100
_STACK: Final = 16 << 20


class Meter:
    """Sets a child's limits and measures it."""

    def __init__(self, limits: WorkerLimits) -> None:
        self._limits = limits
        self._statm = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        self._tasks = os.open("/proc/self/task", os.O_RDONLY | os.O_CLOEXEC)
        self._virtual = self._pages()[0]
        self._threads: set[int | None] = set()
        self._processes: set[int] = set()

    def limit(self) -> None:
        """Set what holds from the start."""
        limits = self._limits
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if limits.memory_bytes is not None:
            most = self._virtual + limits.memory_bytes
            resource.setrlimit(resource.RLIMIT_AS, (most, most + _RESERVE))
        if limits.open_files is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limits.open_files, limits.open_files))

    def ready(self) -> None:
        """Set what holds after the set-up, in which libraries may unpack what they bring."""
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # else a file beyond its limit kills instead of failing
        if self._limits.file_bytes is not None:
            most = self._limits.file_bytes
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        self._threads = {thread.ident for thread in threading.enumerate()}
        self._processes = _children()

    def start_call(self) -> None:
        """Set the limit of CPU time, a back-stop behind the agent's own watch, for one more call."""
        if self._limits.cpu_s is None:
            return
        usage = resource.getrusage(resource.RUSAGE_SELF)
        soft = math.ceil(usage.ru_utime + usage.ru_stime + self._limits.cpu_s) + _CPU_SLACK_S
        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (soft if hard < 0 else min(soft, hard), hard))

    def use_reserve(self) -> None:
        """Give what follows a failed allocation the room to report it."""
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_AS, (hard, hard))

    def usage(self) -> dict[str, Any]:
        """Return what the agent decides by whether this child serves on.

        `children_us` is the CPU time of ended processes that it started, in microseconds; `fd` is the lowest
        free descriptor: it rises when descriptors leak, and is a standard one's when the
        tool has closed that.
        """
        try:
            free = os.dup(self._statm)
            os.close(free)
        except OSError:
            free = 1 << 20
        strangers = sum(thread.ident not in self._threads for thread in threading.enumerate())
        rss = self._pages()[1]
        usage = {"rss": rss, "fd": free, "threads": self._thread_count(), "strangers": strangers}
        return usage | {"children_us": _children_us() if self._limits.may_fork else 0}

    def added_bytes(self) -> int:
        """Return the most address space that the child has had since the fork, less what it had then."""
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmPeak:"):
                return max((int(line.split()[1]) << 10) - self._virtual, 0)
        return 0

    def memory_is_short(self) -> bool:
        """Whether there is no room for the stack of another thread."""
        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        return limit >= 0 and self._pages()[0] + _STACK > limit

    def kill_descendants(self) -> list[str]:
        """Kill the processes that the last call left running; return their names.

        This child is their reaper, so that those which left their group or lost their parents are among its
        children, too.
        """
        names: dict[int, str] = {}
        for _ in range(_KILL_ROUNDS):
            found = _children() - self._processes
            for pid in found:
                if pid not in names and (name := _running(pid)):
                    names[pid] = name
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
                with contextlib.suppress(OSError):
                    os.waitpid(pid, 0)
            if not found:
                break
        return list(names.values())

    def _pages(self) -> tuple[int, int]:
        total, resident, *_ = os.pread(self._statm, 128, 0).split()
        return int(total) * _PAGE, int(resident) * _PAGE

    def _thread_count(self) -> int:
        return os.fstat(self._tasks).st_nlink - 2  # a folder for each, beside its own two names


def _children_us() -> int:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return int((usage.ru_utime + usage.ru_stime) * 1e6)


def _children() -> set[int]:
    found: set[int] = set()
    for path in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found.update(int(pid) for pid in path.read_text().split())
    return found


def _running(pid: int) -> str:
    """Return the name of a process, or nothing when it has ended already."""
    try:
        head, _, tail = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
    except OSError:
        return ""
    return "" if tail.split()[0] in "ZX" else head.partition("(")[2]
