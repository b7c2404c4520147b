"""What the supervisor runs: processes, and steps between them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aegis_common.errors import ConfigurationError


class NotReady(Exception):
    """A probe says that the process does not answer yet, and why."""


Probe = Callable[[], Coroutine[Any, Any, None]]
"""Returns when the process answers as it should; raises `NotReady` or `OSError` otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSpec:
    """One program.

    Attributes:
        name: Short and unique; prefix of its log lines and name of its log file.
        argv: Program, by absolute path, and its arguments.
        env: The whole environment; nothing is inherited.
        depends_on: Names that must be ready first.
        ready: Tells whether it answers; without one it is ready as soon as it runs.
        ready_timeout: How long it may take to be ready, in seconds.
        drain: How long it may go on after SIGTERM, in seconds; then its whole family is killed.
        url: Where it listens, for `aegis status`.
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None
    depends_on: Sequence[str] = ()
    ready: Probe | None = None
    ready_timeout: float = 60.0
    drain: float = 10.0
    url: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Something done once during start-up, for example registering the nodes."""

    name: str
    action: Callable[[], Awaitable[None]]
    depends_on: Sequence[str] = ()


Unit = ProcessSpec | Step


def start_order(units: Sequence[Unit]) -> list[Unit]:
    """Return *units* so that each comes after what it depends on.

    Raises:
        ConfigurationError: A name is used twice or unknown, or the dependencies form a circle.
    """
    by_name = {unit.name: unit for unit in units}
    if len(by_name) != len(units):
        raise ConfigurationError("two processes have the same name")
    ordered: dict[str, Unit] = {}
    while len(ordered) < len(units):
        free = [u for u in units if u.name not in ordered and all(d in ordered for d in u.depends_on)]
        if not free:
            stuck = ", ".join(name for name in by_name if name not in ordered)
            raise ConfigurationError(f"unknown or circular dependencies among: {stuck}", names=stuck)
        ordered |= {unit.name: unit for unit in free}
    return list(ordered.values())
