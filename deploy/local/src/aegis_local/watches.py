"""Whether the kernel lets this user's Envoys watch their files: Envoy aborts when it does not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from aegis_local.errors import TooFewWatches

_LIMIT: Final = Path("/proc/sys/fs/inotify/max_user_instances")
_PROC: Final = Path("/proc")
# Counted on Envoy 1.40: one for each file or folder that it follows.
_GATEWAY: Final = 19
_OTHER: Final = 6


def needed(nodes: int) -> int:
    """Return how many inotify instances a stack with so many sites takes: gateway, fl-edge, sites."""
    return _GATEWAY + _OTHER * (1 + nodes)


def free() -> int | None:
    """Return how many inotify instances this user may still make, or None where the kernel does not tell."""
    try:
        limit = int(_LIMIT.read_text())
    except (OSError, ValueError):
        return None
    return limit - sum(_instances(process) for process in _PROC.iterdir() if process.name.isdecimal())


def check(nodes: int) -> None:
    """Check that a stack with so many sites gets what it needs.

    Raises:
        TooFewWatches: It would not; says how to raise the limit.
    """
    have = free()
    if have is not None and have < needed(nodes):
        raise TooFewWatches(
            f"the Envoys of this stack need {needed(nodes)} inotify instances, and {max(have, 0)} are left "
            f"for this user; {fix()}",
            needed=str(needed(nodes)),
            free=str(have),
        )


def fix() -> str:
    return "stop another stack, or run `sysctl -w fs.inotify.max_user_instances=1024` as root"


def _instances(process: Path) -> int:
    try:
        if process.stat().st_uid != os.getuid():
            return 0
        entries = list((process / "fd").iterdir())
    except OSError:
        return 0
    return sum(_target(entry) == "anon_inode:inotify" for entry in entries)


def _target(entry: Path) -> str:
    try:
        return os.readlink(entry)  # noqa: PTH115  # it names no path
    except OSError:  # closed meanwhile
        return ""
