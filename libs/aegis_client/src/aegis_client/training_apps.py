"""The installed training apps, and which of them may run."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from aegis.fl.v1 import app_service_pb2 as pb
from aegis_client.core.operation import Listing, Operation, Page, method
from aegis_client.core.surface import AsyncApi, SyncApi, stream, unary
from aegis_client.core.values import enum_name, moment, resource

LIST: Final = method(pb, "AppService", "ListApps", pb.ListAppsResponse)
APPROVE: Final = method(pb, "AppService", "ApproveApp", pb.ApproveAppResponse)
REVOKE: Final = method(pb, "AppService", "RevokeApp", pb.RevokeAppResponse)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingApp:
    """An installed training app, as it stands for the caller's tenant.

    Attributes:
        name: `apps/{app}`.
        sha256: Digest of its bundle, 64 lower-case hex digits; empty for a broken app.
        state: `APPROVED`, `NOT_APPROVED`, `REVOKED` or `BROKEN`.
        decided_by: Subject of the admin who approved or revoked it; empty when nobody did.
        decide_time: When; None when nobody did.
        fault: What is wrong with a broken app, or empty.
    """

    name: str
    sha256: str
    state: str
    decided_by: str
    decide_time: datetime | None
    fault: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocation:
    """What revoking an app did: the installed app, and the runs that are being cancelled."""

    app: TrainingApp
    cancelled_runs: tuple[str, ...]


def _list(*, page_size: int = 0) -> Listing[TrainingApp]:
    """Iterate over the installed apps, ordered by name."""

    def fetch(token: str) -> Operation[Page[TrainingApp]]:
        return Operation(LIST, pb.ListAppsRequest(page_size=page_size, page_token=token), _read_apps)

    return Listing(fetch)


def _approve(name: str, sha256: str, *, timeout: float | None = None) -> Operation[TrainingApp]:
    """Let an app run for the caller's tenant, as long as it has this digest.

    Args:
        name: `digits` or `apps/digits`.
        sha256: Digest of the bundle that was reviewed, 64 lower-case hex digits.
        timeout: Deadline of the call, in seconds.

    Raises:
        NotFound: Reason `UNKNOWN_APP`.
        FailedPrecondition: Reasons `APP_CHANGED` (the installed app has another digest), `BROKEN_APP`.
    """
    request = pb.ApproveAppRequest(name=resource("apps", name), sha256=sha256)
    return Operation(APPROVE, request, lambda answer: _read_app(answer.app), timeout)


def _revoke(name: str, sha256: str = "", *, timeout: float | None = None) -> Operation[Revocation]:
    """Let an app run no more for the caller's tenant, and cancel its runs.

    Args:
        name: Of the app.
        sha256: Digest that may run no more; if empty, that of the installed app.
        timeout: Deadline of the call, in seconds.

    Raises:
        NotFound: Reason `UNKNOWN_APP`.
    """
    request = pb.RevokeAppRequest(name=resource("apps", name), sha256=sha256)
    return Operation(REVOKE, request, _read_revocation, timeout)


def _read_apps(answer: pb.ListAppsResponse) -> Page[TrainingApp]:
    return Page([_read_app(app) for app in answer.apps], answer.next_page_token)


def _read_revocation(answer: pb.RevokeAppResponse) -> Revocation:
    return Revocation(app=_read_app(answer.app), cancelled_runs=tuple(answer.cancelled_runs))


def _read_app(app: pb.App) -> TrainingApp:
    return TrainingApp(
        name=app.name,
        sha256=app.sha256,
        state=enum_name(pb.App.State, app.state),
        decided_by=app.decided_by,
        decide_time=moment(app, "decide_time"),
        fault=app.fault,
    )


class TrainingAppsSurface:
    list = stream(_list)
    approve = unary(_approve)
    revoke = unary(_revoke)


class TrainingApps(TrainingAppsSurface, SyncApi):
    """`Client.training_apps`."""


class AsyncTrainingApps(TrainingAppsSurface, AsyncApi):
    """`AsyncClient.training_apps`."""
