"""An app is code: it runs when its digest is approved, and only then."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from aegis_common.errors import ConfigurationError
from aegis_fl_coordinator.adapters.apps import FolderCatalogue
from aegis_fl_coordinator.apps import BUNDLED
from aegis_fl_coordinator.domain.errors import AppNotApproved, UnknownApp


@pytest.fixture
def own(tmp_path: Path) -> Path:
    folder = tmp_path / "own"
    shutil.copytree(BUNDLED / "digits", folder)
    (folder / "aegis_digits" / "__init__.py").write_text('"""Changed."""\n')
    return folder


def test_the_bundled_app_is_approved() -> None:
    app = FolderCatalogue().get("digits")

    assert (app.name, len(app.sha256)) == ("digits", 64)


def test_an_app_of_the_operator_runs_by_approved_digest_only(own: Path) -> None:
    with pytest.raises(AppNotApproved) as error:
        FolderCatalogue([own]).get("own")

    digest = error.value.metadata["sha256"]
    assert FolderCatalogue([own], approved=[digest]).get("own").sha256 == digest


def test_a_changed_app_is_not_approved_any_more(own: Path) -> None:
    with pytest.raises(AppNotApproved) as error:
        FolderCatalogue([own]).get("own")
    digest = error.value.metadata["sha256"]
    (own / "aegis_digits" / "task.py").write_text("import os\n")

    with pytest.raises(AppNotApproved):
        FolderCatalogue([own], approved=[digest]).get("own")


def test_an_unknown_app_is_refused_with_those_that_are_there(own: Path) -> None:
    with pytest.raises(UnknownApp, match="there is no app 'x'; installed are digits, own"):
        FolderCatalogue([own]).get("x")


def test_an_app_that_cannot_learn_its_run_is_refused(own: Path) -> None:
    project = own / "pyproject.toml"
    project.write_text(project.read_text().replace('aegis-run = ""', ""))

    with pytest.raises(AppNotApproved, match="does not declare aegis-run"):
        FolderCatalogue([own]).get("own")


def test_a_name_that_is_taken_and_a_folder_that_is_no_app_stop_the_start(tmp_path: Path) -> None:
    for name in ("digits", "empty"):
        (tmp_path / name).mkdir()
        with pytest.raises(ConfigurationError):
            FolderCatalogue([tmp_path / name])
