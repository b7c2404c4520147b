"""How the audit log lies on disk: file names, records, checkpoints. Nothing but the standard library."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from aegis_common.canonical import canonical_json, canonical_text

SCHEMA_VERSION: Final = 1
GENESIS: Final = "0" * 64
"""`prev` of the first record of a file."""
NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
"""What a service or an instance may be called; `.` stays free to divide them in file names."""
CHECKPOINTS_SUFFIX: Final = ".checkpoints"
_HASH: Final = "hash"
_FILE: Final = re.compile(r"(?P<service>[a-z0-9-]+)-(?P<epoch>[0-9]{6,})\.jsonl")


@dataclass(frozen=True, slots=True)
class ChainName:
    """Name of one chain file, `<service>-<instance>-<epoch>.jsonl`.

    Attributes:
        series: `<service>-<instance>`, shared by the epochs of one instance.
        epoch: 1 for the first process, one more after each restart.
    """

    series: str
    epoch: int

    @property
    def file(self) -> str:
        return f"{self.series}-{self.epoch:06d}.jsonl"

    @classmethod
    def parse(cls, file: str) -> ChainName | None:
        """Return the parts of a chain file's name, or None for another file."""
        match = _FILE.fullmatch(file)
        return cls(match["service"], int(match["epoch"])) if match else None


def chain_names(directory: Path) -> list[ChainName]:
    """Return the chains that *directory* holds records or checkpoints of, by series and epoch."""
    files = {entry.name.removesuffix(CHECKPOINTS_SUFFIX) for entry in directory.iterdir() if entry.is_file()}
    found = [name for name in map(ChainName.parse, files) if name]
    return sorted(found, key=lambda name: (name.series, name.epoch))


def checkpoints_path(directory: Path, file: str) -> Path:
    return directory / (file + CHECKPOINTS_SUFFIX)


def with_hash(record: dict[str, Any]) -> dict[str, Any]:
    """Return *record* with its `hash`: the SHA-256 of its canonical JSON without it."""
    return {**record, _HASH: hashlib.sha256(canonical_json(record)).hexdigest()}


def hashed_line(record: dict[str, Any]) -> tuple[str, bytes]:
    """Return the hash of *record*, and its line: `with_hash(record)` as canonical JSON, written once.

    Its keys have to be strings, at any depth.
    """
    before, after = (
        canonical_text({name: value for name, value in record.items() if (name < _HASH) is first})[1:-1]
        for first in (True, False)
    )
    digest = hashlib.sha256(_object(before, after)).hexdigest()
    return digest, _object(before, b'"%s":"%s"' % (_HASH.encode(), digest.encode()), after) + b"\n"


def _object(*members: bytes) -> bytes:
    return b"{" + b",".join(filter(None, members)) + b"}"


def checkpoint_text(checkpoint: dict[str, Any]) -> bytes:
    """Return what a checkpoint's signature covers: its canonical JSON without `signature`."""
    return canonical_json({name: value for name, value in checkpoint.items() if name != "signature"})
