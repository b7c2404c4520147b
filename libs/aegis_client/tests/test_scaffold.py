"""`aegis tools scaffold`: what it writes works as it stands."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from aegis_client.cli.app import run

RUFF = Path(sys.executable).with_name("ruff")


def scaffold(name: str, place: Path) -> int:
    return run(["tools", "scaffold", name, "--dir", str(place)])


def test_the_test_of_a_new_package_passes_as_it_stands(tmp_path: Path) -> None:
    assert scaffold("my-words", tmp_path / "made") == 0
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path / "made",
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


def test_the_package_has_its_entry_point_and_no_lint(tmp_path: Path) -> None:
    assert scaffold("my-words", tmp_path / "made") == 0
    settings = tomllib.loads((tmp_path / "made" / "pyproject.toml").read_text())
    linted = subprocess.run(
        [RUFF, "check", "--isolated", "."], cwd=tmp_path / "made", capture_output=True, text=True, check=False
    )

    assert settings["project"]["name"] == "my-words"
    assert settings["project"]["entry-points"]["aegis.tools"] == {"my_words": "my_words:my_words"}
    assert linted.returncode == 0, linted.stdout
    assert not [path for path in (tmp_path / "made").rglob("*") if "{" in path.name]


@pytest.mark.parametrize(
    "name", ["", "Words", "2words", "my.words", "class", "aegis", "aegis-words", "a" * 64, "a-"]
)
def test_a_name_that_cannot_be_one_is_refused(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert scaffold(name, tmp_path / "made") == 2
    assert repr(name) in capsys.readouterr().err
    assert not (tmp_path / "made").exists()


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "keep.txt").write_text("mine")

    assert scaffold("words", tmp_path) == 2
    assert "not an empty folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["keep.txt"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")

    assert scaffold("words", tmp_path / "file" / "below") == 2
    assert "cannot be written" in capsys.readouterr().err
