"""Checkpoints: the aggregated arrays of a round, written in one step."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord

from aegis_fl_coordinator.runfile import write_private


def save(folder: Path, number: int, arrays: ArrayRecord) -> str:
    """Write the checkpoint of round *number* and return its SHA-256, 64 hex digits."""
    buffer = io.BytesIO()
    values: dict[str, np.ndarray] = {name: array.numpy() for name, array in arrays.items()}
    np.savez(buffer, allow_pickle=False, **values)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_private(path(folder, number), buffer.getvalue())
    return hashlib.sha256(buffer.getbuffer()).hexdigest()


def load(folder: Path, number: int) -> ArrayRecord:
    """Read the checkpoint of round *number*.

    Raises:
        OSError: There is none.
        ValueError: It is broken.
    """
    with np.load(path(folder, number), allow_pickle=False) as stored:
        return ArrayRecord({name: Array(stored[name]) for name in stored.files})


def path(folder: Path, number: int) -> Path:
    """Return where the checkpoint of round *number* lies."""
    return folder / f"round-{number:05d}.npz"
