"""Fixtures of these tests."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def temporary_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """A short temporary folder for each test: sockets of deep state directories go there, and go with it."""
    tmp_path_factory.getbasetemp()  # pytest makes its own folder once, before the place changes
    folder = Path(tempfile.mkdtemp(prefix="al"))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    yield
    shutil.rmtree(folder, ignore_errors=True)
