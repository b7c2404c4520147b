"""Checkpoints: the model of a round, and with it all that the next round depends on."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from flwr.app import Array, ArrayRecord

from aegis_fl_coordinator.runfile import parameters_file, write_private
from aegis_fl_coordinator.serverapp.state import flatten, unflatten

SCHEMA_VERSION: Final = 1
KEPT: Final = 10
"""How many checkpoints of a run stay; older ones are removed."""
_NAME: Final = re.compile(r"round-(\d{5,})\.state\.npz")
_TREE: Final = "tree"
_log: Final = logging.getLogger(__name__)
_BROKEN: Final = (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile, EOFError)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A run after a round.

    Attributes:
        number: The round. Range: 1 and up.
        arrays: The model.
        state: What else the next round depends on: plain values and arrays.
    """

    number: int
    arrays: ArrayRecord
    state: Mapping[str, Any]


def digest(arrays: ArrayRecord) -> tuple[str, bytes]:
    """Return the SHA-256 of a checkpoint's model file, 64 hex digits, and the file."""
    content = _npz({name: array.numpy() for name, array in arrays.items()})
    return hashlib.sha256(content).hexdigest(), content


def save(folder: Path, number: int, content: bytes, state: Mapping[str, Any]) -> None:
    """Write the checkpoint of round *number*; it counts once its second file is there.

    Args:
        folder: Made if absent, for this user only.
        number: The round.
        content: The model file of `digest`.
        state: What else the next round depends on.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_private(path(folder, number), content)
    found: list[np.ndarray] = []
    tree = {
        "schema_version": SCHEMA_VERSION,
        "model_sha256": hashlib.sha256(content).hexdigest(),
        "state": flatten(dict(state), found),
    }
    named = {f"a{index}": array for index, array in enumerate(found)}
    named[_TREE] = np.frombuffer(json.dumps(tree).encode(), np.uint8)
    write_private(_state_path(folder, number), _npz(named))
    _remove_old(folder)


def newest(folder: Path) -> Checkpoint | None:
    """Return the newest checkpoint that is whole, or None; one that is broken is passed over."""
    for number in reversed(_numbers(folder)):
        try:
            return _read(folder, number)
        except _BROKEN as error:
            _log.warning("the checkpoint of round %s cannot be used: %r", number, error)
    return None


def load(folder: Path, number: int) -> ArrayRecord:
    """Read the model of round *number*.

    Raises:
        OSError: There is none.
        ValueError: It is broken.
    """
    return _arrays(path(folder, number).read_bytes())


def path(folder: Path, number: int) -> Path:
    """Return where the model of round *number* lies."""
    return parameters_file(folder, number)


def _state_path(folder: Path, number: int) -> Path:
    return folder / f"round-{number:05d}.state.npz"


def _read(folder: Path, number: int) -> Checkpoint:
    with np.load(_state_path(folder, number), allow_pickle=False) as stored:
        tree = json.loads(stored[_TREE].tobytes())
        found = [stored[f"a{index}"] for index in range(len(stored.files) - 1)]
    if tree["schema_version"] != SCHEMA_VERSION:
        raise ValueError(f"schema version {tree['schema_version']}; this reader knows {SCHEMA_VERSION}")
    content = path(folder, number).read_bytes()
    if hashlib.sha256(content).hexdigest() != tree["model_sha256"]:
        raise ValueError("the model file does not have the digest that was noted")
    return Checkpoint(number, _arrays(content), unflatten(tree["state"], found))


def _arrays(content: bytes) -> ArrayRecord:
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        return ArrayRecord({name: Array(stored[name]) for name in stored.files})


def _npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    # Written as `np.savez` does, but any name may be an array's, `file` too.
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            info = zipfile.ZipInfo(f"{name}.npy")
            with archive.open(info, "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)
    return buffer.getvalue()


def _numbers(folder: Path) -> list[int]:
    found = (_NAME.fullmatch(file.name) for file in folder.glob("round-*.state.npz"))
    return sorted(int(match[1]) for match in found if match)


def _remove_old(folder: Path) -> None:
    for number in _numbers(folder)[:-KEPT]:
        # The state first: without it the rest is no checkpoint.
        _state_path(folder, number).unlink(missing_ok=True)
        path(folder, number).unlink(missing_ok=True)
