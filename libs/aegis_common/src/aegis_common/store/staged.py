"""Leftovers in a folder of objects: files half written by a process that was killed, and empty folders."""

from __future__ import annotations

import contextlib
import os
import re
from datetime import datetime
from pathlib import Path
from typing import Final

# The object store writes to `<name>#<number>` and renames; no key has `#` in it.
_STAGED: Final = re.compile(r".+#\d+")


def remove_staged(folder: Path, before: datetime) -> int:
    """Remove half-written files below *folder* that nobody touched since *before*, and empty folders.

    Folders directly below *folder* stay: a writer that makes one of its own again needs its parent.

    Returns:
        How many files were removed.
    """
    removed = 0
    limit = before.timestamp()
    for place, _, names in os.walk(folder, topdown=False):
        for name in names:
            path = Path(place) / name
            with contextlib.suppress(FileNotFoundError):
                if _STAGED.fullmatch(name) and path.stat().st_mtime < limit:
                    path.unlink()
                    removed += 1
        with contextlib.suppress(OSError):  # not empty, or gone already
            deep = len(Path(place).relative_to(folder).parts) > 1
            if deep and Path(place).stat().st_mtime < limit:
                Path(place).rmdir()
    return removed
