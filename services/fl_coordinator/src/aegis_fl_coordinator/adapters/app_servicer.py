"""AppService: protobuf in, domain, protobuf out."""

from __future__ import annotations

from typing import Final

from aegis.fl.v1 import app_service_pb2 as pb
from aegis.fl.v1 import app_service_pb2_grpc as pb_grpc
from aegis_common.paging import page
from aegis_common.rpc.call import Context, current_call
from aegis_common.rpc.times import timestamp
from aegis_fl_coordinator.domain.apps import Apps, AppStatus
from aegis_fl_coordinator.domain.training import Training

_COLLECTION: Final = "apps/"


class AppServicer(pb_grpc.AppServiceServicer):
    def __init__(self, apps: Apps, training: Training) -> None:
        self._apps = apps
        self._training = training

    async def ListApps(self, request: pb.ListAppsRequest, context: Context) -> pb.ListAppsResponse:
        tenant = current_call().principal.tenant
        apps, token = page(
            await self._apps.list(tenant),
            key=lambda app: app.name,
            size=request.page_size,
            token=request.page_token,
            query=f"apps of {tenant}",
        )
        return pb.ListAppsResponse(apps=[_message(app) for app in apps], next_page_token=token)

    async def ApproveApp(self, request: pb.ApproveAppRequest, context: Context) -> pb.ApproveAppResponse:
        tenant, name, by = _noted(request.name, request.sha256)
        app = await self._apps.approve(tenant, name, request.sha256, by=by)
        return pb.ApproveAppResponse(app=_message(app))

    async def RevokeApp(self, request: pb.RevokeAppRequest, context: Context) -> pb.RevokeAppResponse:
        tenant, name, by = _noted(request.name, request.sha256)
        app, sha256 = await self._apps.revoke(tenant, name, request.sha256, by=by)
        current_call().notes["sha256"] = sha256
        stopped = self._training.cancel_all(tenant, app=name, app_sha256=sha256)
        return pb.RevokeAppResponse(app=_message(app), cancelled_runs=[run.name for run in stopped])


def _noted(name: str, sha256: str) -> tuple[str, str, str]:
    """Return tenant, app and who calls; the audit log gets app and digest."""
    call, app = current_call(), name.removeprefix(_COLLECTION)
    call.notes["app"] = app
    call.notes["sha256"] = sha256
    return call.principal.tenant, app, call.principal.subject or call.principal.spiffe_id


def _message(app: AppStatus) -> pb.App:
    decision = app.decision
    return pb.App(
        name=f"{_COLLECTION}{app.name}",
        sha256=app.sha256,
        state=pb.App.State.Value(f"STATE_{app.state.name}"),
        decided_by=decision.by if decision else "",
        decide_time=timestamp(decision.time if decision else None),
        fault=app.fault,
    )
