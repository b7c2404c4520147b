"""Landlock of Linux: a process gives up, for good and without privileges, all files but those it names."""

from __future__ import annotations

import ctypes
import os
import platform
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final

_CREATE, _ADD_RULE, _RESTRICT = 444, 445, 446
_NO_NEW_PRIVS: Final = 38
_VERSION: Final = 1
_PATH_BENEATH: Final = 1
_MACHINES: Final = frozenset({"x86_64", "aarch64"})

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = (1 << bit for bit in range(4))
_REFER, _TRUNCATE, _IOCTL = 1 << 13, 1 << 14, 1 << 15
_FIRST: Final = (1 << 13) - 1
"""The rights of the first version: those above, and to make and remove entries of each kind."""
_READ: Final = _EXECUTE | _READ_FILE | _READ_DIR
_OF_FILES: Final = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL
_SIGNALS_AND_ABSTRACT_SOCKETS: Final = 3


class NoLandlock(Exception):
    """This kernel has no Landlock, or does not let this process use it."""


class _Ruleset(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def confine(*, read: Iterable[Path], write: Iterable[Path]) -> None:
    """Leave this thread, and all that it starts from now on, these files and folders and no others.

    Also taken, where the kernel can: signals to processes outside, their memory and environment, and abstract
    unix sockets. Threads that run already keep what they have: call it while there is one.

    Args:
        read: Files and folders that may be read and executed; those that do not exist are passed over.
        write: Those that may be changed too.

    Raises:
        NoLandlock: Nothing was taken.
        OSError: The kernel refuses; some things may be taken.
    """
    known = version()
    rights = _FIRST
    for since, right in ((2, _REFER), (3, _TRUNCATE), (5, _IOCTL)):
        rights |= right if known >= since else 0
    asked = _Ruleset(rights, 0, _SIGNALS_AND_ABSTRACT_SOCKETS if known >= 6 else 0)
    # A kernel refuses fields that it does not know.
    size = 24 if known >= 6 else 16 if known >= 4 else 8
    rules = _call(_CREATE, ctypes.byref(asked), size, 0)
    try:
        for paths, allowed in ((read, _READ), (write, rights)):
            for path in paths:
                _add(rules, path, allowed & rights)
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "no_new_privs cannot be set")
        _call(_RESTRICT, rules, 0)
    finally:
        os.close(rules)


def _add(rules: int, path: Path, allowed: int) -> None:
    try:
        parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, PermissionError):
        return
    try:
        if not stat.S_ISDIR(os.fstat(parent).st_mode):
            allowed &= _OF_FILES
        _call(_ADD_RULE, rules, _PATH_BENEATH, ctypes.byref(_Beneath(allowed, parent)), 0)
    finally:
        os.close(parent)


def version() -> int:
    """Return the version of Landlock that this kernel has, 1 and up.

    Raises:
        NoLandlock: It has none.
    """
    if platform.system() != "Linux" or platform.machine() not in _MACHINES:
        raise NoLandlock("Landlock is Linux's, on x86_64 and aarch64")
    try:
        return _call(_CREATE, None, 0, _VERSION)
    except OSError as error:
        raise NoLandlock(f"this kernel has no Landlock: {error.strerror}") from error


def _call(number: int, *arguments: object) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    result = int(libc.syscall(number, *arguments))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result
