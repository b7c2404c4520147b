"""Files that other processes read while we replace them."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from aegis_common.errors import ConfigurationError

_CURRENT: Final = "..data"
_KEPT_S: Final = 60.0  # a reader may be half-way down a path that leads into an older version


def write_atomic(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Put *data* at *path* by a rename, so that a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        _write(temporary, data, mode)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def swap_in(folder: Path, files: Mapping[str, bytes], *, mode: int = 0o600) -> None:
    """Make *files* (name to content) the whole content of *folder*, in one step.

    The layout is that of a Kubernetes projected volume: each name is a link through `..data`, and `..data`
    is a link to a fresh folder. Envoy's `watched_directory` on *folder* sees the swap. Names that are not in
    *files* disappear. One writer at a time.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    current = folder / _CURRENT
    previous = current.readlink().name if current.is_symlink() else ""
    version = f"..{secrets.token_hex(8)}"
    (folder / version).mkdir(mode=0o700)
    for name, data in files.items():
        _write(folder / version / name, data, mode)
    _link(current, version)
    for name in files:
        _link(folder / name, f"{_CURRENT}/{name}")
    before = (folder / version).stat().st_mtime - _KEPT_S
    for entry in list(folder.iterdir()):
        if entry.name not in {_CURRENT, version, previous, *files}:
            _remove_stale(entry, before=before)


def read_file(path: Path, what: str) -> bytes:
    """Return the content of *path*.

    Raises:
        ConfigurationError: It cannot be read; names *what* and the path.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"{what} {path} cannot be read: {error.strerror or error}", path=str(path)
        ) from error


def _write(path: Path, data: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)


def _link(path: Path, target: str) -> None:
    if path.is_symlink() and str(path.readlink()) == target:
        return
    temporary = path.with_name(f"..new-{secrets.token_hex(4)}")
    temporary.symlink_to(target)
    temporary.replace(path)


def _remove_stale(entry: Path, *, before: float) -> None:
    """Remove a link that `swap_in` made, or a version of it that is older than *before*, in Unix time."""
    if entry.is_symlink():
        if str(entry.readlink()).startswith(f"{_CURRENT}/") or entry.name.startswith("..new-"):
            entry.unlink()
    elif entry.name.startswith("..") and entry.is_dir() and entry.stat().st_mtime < before:
        shutil.rmtree(entry)
