"""An app is code: it runs when an admin of the tenant has approved its digest, and only then."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import grpc.aio
import pytest

from aegis.fl.v1 import app_service_pb2 as pb
from aegis.fl.v1 import training_service_pb2 as training_pb
from aegis_common.errors import ConfigurationError
from aegis_common.testing.pki import Mesh
from aegis_fl_coordinator.adapters.apps import FolderCatalogue
from aegis_fl_coordinator.adapters.decision_store import SqliteDecisions
from aegis_fl_coordinator.apps import BUNDLED
from aegis_fl_coordinator.domain.errors import BrokenApp, UnknownApp, UnknownSchema
from aegis_fl_coordinator.testing.calls import create, reason, until_state
from aegis_fl_coordinator.testing.engine import ScriptedEngine
from aegis_fl_coordinator.testing.processes import Coordinate, Stubs

App = pb.App


@pytest.fixture
def own(tmp_path: Path) -> Path:
    folder = tmp_path / "own"
    shutil.copytree(BUNDLED / "digits", folder)
    (folder / "aegis_digits" / "__init__.py").write_text('"""Changed."""\n')
    return folder


async def listed(stubs: Stubs) -> dict[str, App]:
    return {app.name: app for app in (await stubs.apps.ListApps(pb.ListAppsRequest())).apps}


async def refused(stubs: Stubs, app: str) -> grpc.aio.AioRpcError:
    """Return the error of a run of *app*, which must not start."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await create(stubs, app=app)
    return error.value


async def test_an_app_runs_once_an_admin_has_approved_its_digest_also_after_a_restart(
    coordinate: Coordinate, own: Path
) -> None:
    async with coordinate(ScriptedEngine(), app_dirs=(own,)) as coordinator:
        sdk, admin = await coordinator.as_account("sdk"), await coordinator.as_account("admin")
        digest = (await listed(sdk))["apps/own"].sha256
        before = await refused(sdk, "own")
        await admin.apps.ApproveApp(pb.ApproveAppRequest(name="apps/own", sha256=digest))
    async with coordinate(ScriptedEngine(), app_dirs=(own,)) as coordinator:
        sdk = await coordinator.as_account("sdk")
        run = await create(sdk, app="own")
        app = (await listed(sdk))["apps/own"]

    assert reason(before) == ("FAILED_PRECONDITION", "APP_NOT_APPROVED")
    assert f"aegis fl app approve own {digest}" in str(before.details())
    assert run.app_sha256 == digest
    assert (app.state, app.decided_by != "", app.HasField("decide_time")) == (App.STATE_APPROVED, True, True)


async def test_an_app_that_changed_needs_a_new_approval(coordinate: Coordinate, own: Path) -> None:
    async with coordinate(ScriptedEngine(), app_dirs=(own,)) as coordinator:
        admin = await coordinator.as_account("admin")
        digest = (await listed(admin))["apps/own"].sha256
        await admin.apps.ApproveApp(pb.ApproveAppRequest(name="apps/own", sha256=digest))
    (own / "aegis_digits" / "task.py").write_text("import os\n")
    async with coordinate(ScriptedEngine(), app_dirs=(own,)) as coordinator:
        sdk, admin = await coordinator.as_account("sdk"), await coordinator.as_account("admin")
        again = await refused(sdk, "own")
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await admin.apps.ApproveApp(pb.ApproveAppRequest(name="apps/own", sha256=digest))

    assert reason(again) == ("FAILED_PRECONDITION", "APP_NOT_APPROVED")
    assert reason(error.value) == ("FAILED_PRECONDITION", "APP_CHANGED")


async def test_revoking_stops_the_runs_of_the_app_and_starts_no_other(coordinate: Coordinate) -> None:
    async with coordinate(ScriptedEngine()) as coordinator:
        sdk, admin = await coordinator.as_account("sdk"), await coordinator.as_account("admin")
        run = await create(sdk)
        answer = await admin.apps.RevokeApp(pb.RevokeAppRequest(name="apps/digits"))
        await until_state(sdk, run.name, training_pb.TrainingRun.STATE_CANCELLED)
        after = await refused(sdk, "digits")
        await admin.apps.ApproveApp(pb.ApproveAppRequest(name="apps/digits", sha256=answer.app.sha256))
        again = await create(sdk)

    assert answer.app.state == App.STATE_REVOKED
    assert list(answer.cancelled_runs) == [run.name]
    assert "was revoked" in str(after.details())
    assert again.name != run.name


async def test_only_an_admin_decides_and_for_the_own_tenant_alone(
    coordinate: Coordinate, mesh: Mesh, own: Path
) -> None:
    other_tenant = {"tenant": "other", "roles": ["admin"], "via_gateway": True}
    mesh.write_identities({mesh.spiffe_id("stranger"): other_tenant})
    async with coordinate(ScriptedEngine(), app_dirs=(own,)) as coordinator:
        sdk, admin = await coordinator.as_account("sdk"), await coordinator.as_account("admin")
        other = await coordinator.as_account("stranger")
        digest = (await listed(sdk))["apps/own"].sha256
        for call in (
            sdk.apps.ApproveApp(pb.ApproveAppRequest(name="apps/own", sha256=digest)),
            sdk.apps.RevokeApp(pb.RevokeAppRequest(name="apps/digits")),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await call
            assert error.value.code() is grpc.StatusCode.PERMISSION_DENIED
        await admin.apps.ApproveApp(pb.ApproveAppRequest(name="apps/own", sha256=digest))

        assert (await listed(other))["apps/own"].state == App.STATE_NOT_APPROVED


async def test_an_app_that_cannot_run_is_listed_with_what_is_wrong(coordinate: Coordinate, own: Path) -> None:
    project = own / "pyproject.toml"
    project.write_text(project.read_text().replace('aegis-run = ""', ""))
    async with coordinate(ScriptedEngine(), app_dirs=(own,)) as coordinator:
        app = (await listed(await coordinator.as_account("sdk")))["apps/own"]

    assert app.state == App.STATE_BROKEN
    assert "does not declare aegis-run" in app.fault


def test_what_ships_or_the_operator_approved_is_vetted(own: Path) -> None:
    digest = FolderCatalogue([own]).get("own").sha256

    assert FolderCatalogue().vetted(FolderCatalogue().get("digits"))
    assert FolderCatalogue([own], approved=[digest]).vetted(FolderCatalogue([own]).get("own"))
    assert not FolderCatalogue([own]).vetted(FolderCatalogue([own]).get("own"))


def test_an_unknown_app_is_refused_with_those_that_are_there(own: Path) -> None:
    with pytest.raises(UnknownApp, match="there is no app 'x'; installed are digits, own"):
        FolderCatalogue([own]).get("x")


def test_an_app_that_cannot_learn_its_run_is_refused(own: Path) -> None:
    project = own / "pyproject.toml"
    project.write_text(project.read_text().replace('aegis-run = ""', ""))

    with pytest.raises(BrokenApp, match="does not declare aegis-run"):
        FolderCatalogue([own]).get("own")


def test_a_name_that_is_taken_and_a_folder_that_is_no_app_stop_the_start(tmp_path: Path) -> None:
    for name in ("digits", "empty"):
        (tmp_path / name).mkdir()
        with pytest.raises(ConfigurationError):
            FolderCatalogue([tmp_path / name])


def test_decisions_of_a_newer_schema_are_refused_by_number(tmp_path: Path) -> None:
    SqliteDecisions(tmp_path / "apps.db").close()
    with sqlite3.connect(tmp_path / "apps.db") as database:
        database.execute("PRAGMA user_version = 7")
    database.close()

    with pytest.raises(UnknownSchema, match="has schema version 7; this coordinator knows 1"):
        SqliteDecisions(tmp_path / "apps.db")
