"""Large files on their way: a bar while they go, and files as arguments of a tool."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aegis_client.artifact_content import Progress
    from aegis_client.client import Client
    from aegis_client.parts import Part


@contextmanager
def progress_bar(title: str, *, show: bool) -> Iterator[Progress | None]:
    """Show a bar on a terminal's stderr; elsewhere nothing."""
    if not (show and sys.stderr.isatty()):
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn())
    with Bars(*columns, TransferSpeedColumn(), console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(title, total=None)

        def advance(done: int, total: int | None) -> None:
            bars.update(task, completed=done, total=total)

        yield advance


def files_and_artifacts(
    client: Client, files: Sequence[tuple[str, str]]
) -> tuple[dict[str, Path | str | bytes], list[Part]]:
    """Return the files that travel inside the call, by parameter, and parts for those that do not.

    As many as fit below the limit stay; each of the others is stored as an artifact first.

    Raises:
        UsageError: A file cannot be read.
    """
    from aegis_client.parts import MAX_INLINE_BYTES, Part

    inline: dict[str, Path | str | bytes] = {}
    stored: list[Part] = []
    room = MAX_INLINE_BYTES
    for name, text in files:
        path = Path(text)
        size = path.stat().st_size if path.is_file() else 0
        if size <= room:
            inline[name] = path
            room -= size
            continue
        with progress_bar(path.name, show=True) as progress:
            kept = client.artifacts.put(path, progress=progress)
        stored.append(Part(artifact=kept.name, name=name, media_type=kept.media_type, filename=path.name))
    return inline, stored
