"""Proves what an audit log says, from its files and the public keys alone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from aegis_common.audit.format import (
    GENESIS,
    SCHEMA_VERSION,
    ChainName,
    chain_names,
    checkpoint_text,
    checkpoints_path,
    with_hash,
)
from aegis_common.canonical import canonical_json
from aegis_common.signing import key_id, verified

Keys = dict[str, Ed25519PublicKey]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainReport:
    """What could be proved of one chain file.

    Attributes:
        file: Name of the file.
        records: Whole records, up to the first fault.
        sealed_records: Those of them that a valid checkpoint covers: they are as they were written.
        unsealed_records: Those after the last checkpoint: in order among themselves, but not proved.
        torn: The file ends within a record, as after a crash; that record was never complete.
        closed: The process ended in good order and sealed its end.
        ok: No fault was found.
        fault: The first fault, in one sentence; empty when `ok`.
    """

    file: str
    records: int = 0
    sealed_records: int = 0
    unsealed_records: int = 0
    torn: bool = False
    closed: bool = False
    ok: bool = True
    fault: str = ""


class _Fault(Exception):
    """What is wrong, in one sentence."""


def verify(
    directory: Path, public_keys: Iterable[Ed25519PublicKey], *, shipped: Path | None = None
) -> list[ChainReport]:
    """Check every chain in *directory*, in order of their names.

    Args:
        directory: The audit log.
        public_keys: Keys that may have signed checkpoints.
        shipped: The second place of checkpoints. Without it, whoever can write *directory* can cut off the
            end of a chain together with its checkpoints, and nothing shows it.

    Raises:
        OSError: A folder or file cannot be read.
    """
    keys = {key_id(key): key for key in public_keys}
    places = [directory, *([shipped] if shipped else [])]
    names = sorted(
        {name for place in places for name in chain_names(place)}, key=lambda name: (name.series, name.epoch)
    )
    chains = {name.file: _Chain(name) for name in names}
    for chain in chains.values():
        chain.check(directory, places, keys)
    for chain in chains.values():
        previous = chains.get(str(chain.previous.get("file")))
        if previous:
            previous.check_link(chain)
        else:
            chain.check_gap(names)
    return [chain.report() for chain in chains.values()]


class _Chain:
    """One chain file under check."""

    def __init__(self, name: ChainName) -> None:
        self.name = name
        self.previous: dict[str, Any] = {}
        self._hashes: list[str] = []
        self._sealed = 0
        self._torn = False
        self._closed = False
        self._fault = ""

    def report(self) -> ChainReport:
        return ChainReport(
            file=self.name.file,
            records=len(self._hashes),
            sealed_records=self._sealed,
            unsealed_records=len(self._hashes) - self._sealed,
            torn=self._torn,
            closed=self._closed and not self._fault,
            ok=not self._fault,
            fault=self._fault,
        )

    def check(self, directory: Path, places: Iterable[Path], keys: Keys) -> None:
        try:
            self._read_records(directory / self.name.file)
        except _Fault as error:
            self._fault = str(error)
        try:
            for place in places:
                for checkpoint in _checkpoints(checkpoints_path(place, self.name.file), keys):
                    self._check_checkpoint(checkpoint)
        except _Fault as error:
            # what is wrong with the records explains more than that a checkpoint does not fit them
            self._fault = self._fault or str(error)

    def check_link(self, later: _Chain) -> None:
        """Check that this chain still has the record that the start of *later* names."""
        seq = later.previous.get("seq")
        held = type(seq) is int and self._hash(seq) == later.previous.get("hash")
        if not held and not self._fault:
            self._fault = (
                f"{later.name.file} follows record {seq} of this file, which is not there: it was cut"
            )

    def check_gap(self, names: Iterable[ChainName]) -> None:
        """Check that the chain before, which is gone, is gone because only old ones were removed."""
        lost = ChainName.parse(str(self.previous.get("file")))
        if lost and not self._fault and any(n.series == lost.series and n.epoch < lost.epoch for n in names):
            self._fault = f"the file before it, {lost.file}, is missing, but older ones are there"

    def _hash(self, seq: int) -> str:
        return self._hashes[seq - 1] if 1 <= seq <= len(self._hashes) else ""

    def _read_records(self, path: Path) -> None:
        if not path.exists():
            raise _Fault("the file is missing, but checkpoints of it exist")
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    self._torn = True
                    return
                record = _parsed(line, f"record {number}")
                self._check_record(record, number, line)
                self._hashes.append(record["hash"])

    def _check_record(self, record: dict[str, Any], number: int, line: bytes) -> None:
        if _rewritten(record) != line:
            raise _Fault(f"record {number} was changed: its hash does not match")
        head = self._hashes[-1] if self._hashes else GENESIS
        if record.get("seq") != number or record.get("prev") != head:
            raise _Fault(f"record {number} does not follow the one before: one was dropped, added or moved")
        series = f"{record.get('service')}-{record.get('instance')}"
        if (series, record.get("epoch")) != (self.name.series, self.name.epoch):
            raise _Fault(f"record {number} belongs to another file")
        if (record.get("kind") == "start") != (number == 1):
            raise _Fault(f"record {number} has the kind {record.get('kind')!r} in a wrong place")
        if number == 1:
            self.previous = record.get("previous") or {}

    def _check_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        seq, records = checkpoint["seq"], len(self._hashes)
        if checkpoint.get("file") != self.name.file:
            raise _Fault(f"checkpoint {seq} belongs to {checkpoint.get('file')}")
        if seq > records:
            raise _Fault(
                f"the file ends at record {records}, but a checkpoint covers record {seq}: it was cut"
            )
        if self._hash(seq) != checkpoint.get("hash"):
            raise _Fault(
                f"record {seq} is not the one that its checkpoint covers: the chain was written anew"
            )
        self._sealed = max(self._sealed, seq)
        if checkpoint.get("closed") is True:
            self._closed = True
            if records > seq:
                raise _Fault(f"record {seq + 1} follows the checkpoint that closed the chain")


def _checkpoints(path: Path, keys: Keys) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return  # cut short by a crash: it never counted
            what = f"checkpoint {number} in {path.parent.name}/{path.name}"
            checkpoint = _parsed(line, what)
            key = keys.get(str(checkpoint.get("key_id")))
            if key is None:
                raise _Fault(f"{what} is signed by the unknown key {checkpoint.get('key_id')}")
            if not verified(key, str(checkpoint.get("signature")), checkpoint_text(checkpoint)):
                raise _Fault(f"{what} has a wrong signature")
            if type(checkpoint.get("seq")) is not int or checkpoint["seq"] < 1:
                raise _Fault(f"{what} names no record")
            yield checkpoint


def _rewritten(record: dict[str, Any]) -> bytes:
    """Return the line as the log would write it: no second spelling of the same record passes."""
    content = {name: value for name, value in record.items() if name != "hash"}
    try:
        return canonical_json(with_hash(content)) + b"\n"
    except ValueError:
        return b""


def _parsed(line: bytes, what: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _Fault(f"{what} is not JSON") from error
    if not isinstance(value, dict):
        raise _Fault(f"{what} is not a JSON object")
    version = value.get("schema_version")
    if version != SCHEMA_VERSION:
        raise _Fault(f"{what} has schema version {version!r}; this reader knows {SCHEMA_VERSION}")
    return value
