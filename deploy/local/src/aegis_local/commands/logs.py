"""`aegis logs`: what the processes wrote."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, BinaryIO, Final

import typer

from aegis_common.errors import ConfigurationError
from aegis_local.commands.options import StateDirOption
from aegis_local.state import DEFAULT_DIR, StateDir

app = typer.Typer(add_completion=False)
_POLL_S: Final = 0.2


@app.command()
def logs(
    name: Annotated[str | None, typer.Argument(help="One process; all if omitted.")] = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("-n", "--lines", min=0, help="Last lines of each file.")] = 20,
    state_dir: StateDirOption = DEFAULT_DIR,
) -> None:
    """Print the last log lines of one process or of all."""
    files = log_files(StateDir.at(state_dir).logs, name)
    width = max(len(path.stem) for path in files)
    for path in files:
        for line in last_lines(path, lines):
            typer.echo(f"{path.stem:<{width}} | {line}")
    if follow:
        for stem, line in _follow(files):
            typer.echo(f"{stem:<{width}} | {line}")


def log_files(folder: Path, name: str | None) -> list[Path]:
    """Return the log files of *name*, or of all.

    Raises:
        ConfigurationError: There is none; names those that there are.
    """
    files = {path.stem: path for path in sorted(folder.glob("*.log"))}
    if name is None and files:
        return list(files.values())
    if name in files:
        return [files[name]]
    if not files:
        raise ConfigurationError(f"there are no logs in {folder}; start a stack with `aegis up`")
    raise ConfigurationError(f"there is no log of {name} in {folder}; there are: {', '.join(files)}")


def last_lines(path: Path, count: int) -> list[str]:
    """Return the last *count* lines of a file."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return lines[len(lines) - count :] if count < len(lines) else lines


def _follow(files: list[Path]) -> Iterator[tuple[str, str]]:
    open_files: dict[Path, BinaryIO] = {}
    for path in files:
        file = path.open("rb")
        file.seek(0, 2)
        open_files[path] = file
    while True:
        for path in files:
            for line in open_files[path].readlines():
                yield path.stem, line.decode(errors="replace").rstrip("\n")
            if path.exists() and path.stat().st_ino != _inode(open_files[path]):  # moved aside for size
                open_files[path].close()
                open_files[path] = path.open("rb")
        time.sleep(_POLL_S)


def _inode(file: BinaryIO) -> int:
    import os

    return os.fstat(file.fileno()).st_ino
