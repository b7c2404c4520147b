"""`aegis fl new`: what it writes works as it stands."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from aegis_common.errors import ConfigurationError
from aegis_fl_coordinator.adapters.apps import FolderCatalogue
from aegis_fl_coordinator.adapters.flower_control import app_config
from aegis_fl_coordinator.commands.new import write

RUFF = Path(sys.executable).with_name("ruff")


@pytest.mark.training
@pytest.mark.long
def test_the_tests_of_a_new_app_pass_as_they_stand(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    write("lung-xray", tmp_path / "lung-xray")

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path / "lung-xray",
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


def test_a_new_app_is_one_that_can_be_approved_and_names_nothing_of_the_one_it_is_made_of(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "lung-xray"
    files = write("lung-xray", folder)
    linted = subprocess.run(
        [RUFF, "check", "--isolated", "--ignore=I001", "."],  # the order of imports follows the name
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )

    assert "aegis-run" in app_config(folder)
    FolderCatalogue([folder])
    assert linted.returncode == 0, linted.stdout
    assert (folder / "lung_xray" / "client_app.py") in files
    assert not [path for path in files if "aegis_digits" in path.read_text() + str(path)]


@pytest.mark.parametrize("name", ["", "Xray", "2x", "x.ray", "class", "aegis-x", "a" * 64, "x-"])
def test_a_name_that_cannot_be_one_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="name "):
        write(name, tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "keep.txt").write_text("mine")

    with pytest.raises(ConfigurationError, match="not an empty folder"):
        write("xray", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["keep.txt"]
