"""Writes one chain file and its checkpoints; blocking, for one thread."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from aegis_common.audit.format import (
    GENESIS,
    SCHEMA_VERSION,
    ChainName,
    chain_names,
    checkpoint_text,
    checkpoints_path,
    hashed_line,
)
from aegis_common.canonical import canonical_json
from aegis_common.signing import Signer

_TAIL: Final = 1 << 20


class Chain:
    """One chain file, open for append.

    Attributes:
        path: The file.
        seq: Number of records written; the last one has this number.
        sealed: Number of the last record under a checkpoint.
    """

    def __init__(
        self,
        directory: Path,
        *,
        service: str,
        instance: str,
        signer: Signer,
        ship_dir: Path | None,
        now: datetime,
    ) -> None:
        """Start the next epoch: its first record names the last record of the epoch before.

        Raises:
            OSError: A folder or file cannot be made or written.
        """
        self._signer = signer
        self._ship_dir = ship_dir
        self._unshipped: bytes | None = None
        directory.mkdir(parents=True, exist_ok=True)
        if ship_dir:
            ship_dir.mkdir(parents=True, exist_ok=True)
        self._name, self._file = _create(directory, f"{service}-{instance}", ship_dir)
        self.path: Final = directory / self._name.file
        self._identity = {"service": service, "instance": instance, "epoch": self._name.epoch}
        self._head = GENESIS
        self._offset = 0
        self.seq = 0
        self.sealed = 0
        previous = _last_record(directory, self._name)
        self.write([("start", now, {"previous": previous})])
        _sync_directory(directory)

    def write(self, records: Sequence[tuple[str, datetime, dict[str, Any]]]) -> None:
        """Append *records* (kind, time, content) in order: all of them, or none.

        Raises:
            OSError: They could not be written; the file is as it was.
        """
        seq, head, lines = self.seq, self._head, []
        for kind, time, content in records:
            seq += 1
            head, line = hashed_line(
                {
                    "schema_version": SCHEMA_VERSION,
                    "kind": kind,
                    "seq": seq,
                    "time": time.isoformat(),
                    "prev": head,
                    **self._identity,
                    **content,
                }
            )
            lines.append(line)
        data = b"".join(lines)
        if os.fstat(self._file).st_nlink == 0:
            # the disk would take the records, and nobody could ever read them
            raise FileNotFoundError(errno.ENOENT, "the file was removed", str(self.path))
        try:
            _write_all(self._file, data)
        except OSError:
            # half a record must not stay before the next attempt
            os.ftruncate(self._file, self._offset)
            raise
        self.seq, self._head, self._offset = seq, head, self._offset + len(data)

    def seal(self, now: datetime, *, closed: bool) -> None:
        """Force the records to disk, and sign a checkpoint over them.

        Raises:
            OSError: The records or the checkpoint could not be forced to disk.
        """
        os.fsync(self._file)
        checkpoint: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "kind": "checkpoint",
            "file": self._name.file,
            **self._identity,
            "seq": self.seq,
            "hash": self._head,
            "time": now.isoformat(),
            "closed": closed,
            "key_id": self._signer.key_id,
        }
        checkpoint["signature"] = self._signer.sign(checkpoint_text(checkpoint))
        line = canonical_json(checkpoint) + b"\n"
        _append(checkpoints_path(self.path.parent, self._name.file), line)
        self.sealed = self.seq
        # the newest checkpoint covers what those before it cover
        self._unshipped = line if self._ship_dir else None

    @property
    def unshipped(self) -> bool:
        """True while a checkpoint waits for the second place."""
        return self._unshipped is not None

    def ship(self) -> None:
        """Append the newest checkpoint to the second place, if it is not there yet.

        Raises:
            OSError: It could not be written; the next call tries again.
        """
        if self._ship_dir and self._unshipped:
            _append(checkpoints_path(self._ship_dir, self._name.file), self._unshipped)
            self._unshipped = None

    def close(self) -> None:
        """Give the file back; further calls do nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _create(directory: Path, series: str, ship_dir: Path | None) -> tuple[ChainName, int]:
    places = [directory, *([ship_dir] if ship_dir else [])]
    epoch = max(
        (name.epoch for place in places for name in chain_names(place) if name.series == series), default=0
    )
    while True:
        epoch += 1
        name = ChainName(series, epoch)
        try:
            # exclusive: a second process of the same name gets the next epoch, not this file
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
            return name, os.open(directory / name.file, flags, 0o640)
        except FileExistsError:
            continue


def _last_record(directory: Path, name: ChainName) -> dict[str, Any] | None:
    """Return file, number and hash of the last whole record before the epoch of *name*, or None."""
    earlier = [
        other for other in chain_names(directory) if other.series == name.series and other.epoch < name.epoch
    ]
    for other in reversed(earlier):
        try:
            with (directory / other.file).open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
                whole = file.read().rpartition(b"\n")[0]
            record = json.loads(whole.rpartition(b"\n")[2])
            return {"file": other.file, "seq": int(record["seq"]), "hash": str(record["hash"])}
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def _append(path: Path, data: bytes) -> None:
    new = not path.exists()
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
    try:
        size = os.fstat(file).st_size
        try:
            _write_all(file, data)
        except OSError:
            os.ftruncate(file, size)
            raise
        os.fsync(file)
    finally:
        os.close(file)
    if new:
        _sync_directory(path.parent)


def _write_all(file: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]


def _sync_directory(directory: Path) -> None:
    file = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)
