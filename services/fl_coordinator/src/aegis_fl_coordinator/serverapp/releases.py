"""How many updates with noise each node was asked for: the accountant's book of local privacy."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from aegis_fl_coordinator.runfile import BrokenRunFile, write_private

SCHEMA_VERSION: Final = 1
RELEASES_FILE: Final = "releases.json"


class Releases:
    """Counts by node, in a file.

    A count is written before the node is asked, so that a kill leaves none out. A round that is repeated
    after one counts again: the node has then sent two updates with noise.

    Args:
        folder: Of the run.

    Raises:
        BrokenRunFile: The file is there and cannot be read: what was spent is not known.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / RELEASES_FILE
        self._counts = Counter(self._read())

    @property
    def most(self) -> int:
        """How many updates the node that was asked most often has sent at most."""
        return max(self._counts.values(), default=0)

    def count(self, nodes: Iterable[str]) -> None:
        """Count one more for each of *nodes*; durable when this returns."""
        self._counts.update(nodes)
        record = {"schema_version": SCHEMA_VERSION, "releases": dict(self._counts)}
        write_private(self._file, json.dumps(record, indent=1).encode())

    def _read(self) -> Mapping[str, int]:
        try:
            record = json.loads(self._file.read_bytes())
            counts = {str(node): int(count) for node, count in record["releases"].items()}
            version = record["schema_version"]
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise self._broken(repr(error)) from error
        if version != SCHEMA_VERSION:
            raise self._broken(f"it has schema version {version}; this reader knows {SCHEMA_VERSION}")
        return counts

    def _broken(self, fault: str) -> BrokenRunFile:
        return BrokenRunFile(f"{self._file} cannot be read, so the privacy spent is not known: {fault}")
