"""Refuses a child, in the kernel, what no tool needs: other processes, other programs, the network.

The means is a seccomp filter, which needs no privilege and holds for every thread and program that follows.
Where there is none, a network namespace takes its place for the network, and processes are found afterwards.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

_PR_SET_SECCOMP: Final = 22
_PR_SET_NO_NEW_PRIVS: Final = 38
_FILTER: Final = 2
_CLONE_NEWNET: Final = 0x40000000
_CLONE_NEWUSER: Final = 0x10000000
_THREAD: Final = 0x10100
"""CLONE_THREAD and CLONE_VM: what sets a thread apart from a process."""

_LOAD: Final = 0x20
_EQUAL: Final = 0x15
_AT_LEAST: Final = 0x35
_AND: Final = 0x54
_RETURN: Final = 0x06
_ALLOW: Final = 0x7FFF0000
_ERRNO: Final = 0x00050000
_AT_NUMBER: Final = 0
_AT_ARCH: Final = 4
_AT_FIRST_ARGUMENT: Final = 16
_X32: Final = 0x40000000

Instruction = tuple[int, int, int, int]


class _Machine(NamedTuple):
    """System calls by number: of one architecture, both little-endian."""

    arch: int
    clone: int
    fork: tuple[int, ...]
    execute: tuple[int, ...]
    socket: int
    signal: tuple[int, ...]
    reach: tuple[int, ...]


_CLONE3: Final = 435
_IO_URING: Final = (425, 426, 427)
_PIDFD: Final = (424, 434, 438)
"""pidfd_send_signal, pidfd_open, pidfd_getfd."""
_MACHINES: Final = {
    "x86_64": _Machine(
        0xC000003E,
        clone=56,
        fork=(57, 58),
        execute=(59, 322),
        socket=41,
        signal=(62, 200, 234, 302),  # kill, tkill, tgkill, prlimit64
        reach=(101, 129, 297, 310, 311),  # ptrace, rt_(tg)sigqueueinfo, process_vm_readv, process_vm_writev
    ),
    "aarch64": _Machine(
        0xC00000B7,
        clone=220,
        fork=(),
        execute=(221, 281),
        socket=198,
        signal=(129, 130, 131, 261),
        reach=(117, 138, 240, 270, 271),
    ),
}


@dataclass(frozen=True, slots=True)
class Confinement:
    """What the kernel refuses a child.

    Attributes:
        processes: It cannot fork, run another program, or signal and read other processes.
        network: It cannot reach the network.
    """

    processes: bool
    network: bool


def confine(*, may_fork: bool, network: bool) -> Confinement:
    """Confine this process and whatever comes of it, for good; return what holds.

    Args:
        may_fork: Leave it the right to start processes.
        network: Leave it the network.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    machine = _MACHINES.get(platform.machine())
    if machine is not None and _install(libc, _program(machine, may_fork=may_fork, network=network)):
        return Confinement(processes=not may_fork, network=not network)
    return Confinement(processes=False, network=not network and _leave_network(libc))


def _leave_network(libc: ctypes.CDLL) -> bool:
    """Move into an empty network namespace, which needs root or user namespaces."""
    return any(libc.unshare(flags) == 0 for flags in (_CLONE_NEWNET, _CLONE_NEWUSER | _CLONE_NEWNET))


def _install(libc: ctypes.CDLL, program: list[Instruction]) -> bool:
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("HxxxxxxP", len(program), ctypes.addressof(buffer))
    return bool(libc.prctl(_PR_SET_SECCOMP, _FILTER, ctypes.c_char_p(header), 0, 0) == 0)


def _program(machine: _Machine, *, may_fork: bool, network: bool) -> list[Instruction]:
    program: list[Instruction] = [
        (_LOAD, 0, 0, _AT_ARCH),
        (_EQUAL, 1, 0, machine.arch),
        (_RETURN, 0, 0, _ERRNO | errno.EPERM),
        (_LOAD, 0, 0, _AT_NUMBER),
        (_AT_LEAST, 0, 1, _X32),
        (_RETURN, 0, 0, _ERRNO | errno.ENOSYS),
    ]
    program += _refused(_IO_URING, errno.ENOSYS)  # it would open sockets behind the filter's back
    if not network:
        program += _refused([machine.socket], errno.EPERM)
    if not may_fork:
        program += _refused([_CLONE3], errno.ENOSYS)  # its flags lie in memory; libraries fall back to clone
        program += _refused([*machine.fork, *machine.execute, *machine.reach, *_PIDFD], errno.EPERM)
        program += [
            (_EQUAL, 0, 5, machine.clone),
            (_LOAD, 0, 0, _AT_FIRST_ARGUMENT),
            (_AND, 0, 0, _THREAD),
            (_EQUAL, 1, 0, _THREAD),
            (_RETURN, 0, 0, _ERRNO | errno.EPERM),
            (_RETURN, 0, 0, _ALLOW),
        ]
        for number in machine.signal:
            program += _only_itself(number)
    return [*program, (_RETURN, 0, 0, _ALLOW)]


def _refused(numbers: Iterable[int], error: int) -> list[Instruction]:
    program: list[Instruction] = []
    for number in numbers:
        program += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ERRNO | error)]
    return program


def _only_itself(number: int) -> list[Instruction]:
    """Allow a call whose first argument is this process, its own group, or 0; threads have their own ids."""
    pid = os.getpid()
    return [
        (_EQUAL, 0, 6, number),
        (_LOAD, 0, 0, _AT_FIRST_ARGUMENT),
        (_EQUAL, 3, 0, pid),
        (_EQUAL, 2, 0, 0),
        (_EQUAL, 1, 0, -pid & 0xFFFFFFFF),
        (_RETURN, 0, 0, _ERRNO | errno.EPERM),
        (_RETURN, 0, 0, _ALLOW),
    ]
