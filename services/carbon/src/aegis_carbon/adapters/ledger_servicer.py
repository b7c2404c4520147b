"""aegis.carbon.v1.LedgerService: protobuf in, domain call, protobuf out."""

from __future__ import annotations

from typing import Any, Final

import grpc.aio
from google.api import httpbody_pb2

from aegis.carbon.v1 import ledger_service_pb2 as pb
from aegis.carbon.v1 import ledger_service_pb2_grpc as pb_grpc
from aegis_carbon.adapters.convert import moment, time_to_work
from aegis_carbon.adapters.ledger_convert import USAGES, entry_message, row_message, usage_of
from aegis_carbon.adapters.ledger_export import MEDIA_TYPES, exported
from aegis_carbon.domain.ledger.entry import Entry
from aegis_carbon.domain.ledger.errors import LedgerNotConfigured, OtherTenants, ReportTooLarge
from aegis_carbon.domain.ledger.ledger import Ledger
from aegis_carbon.domain.ledger.report import Dimension, Query, Row, days_of, report
from aegis_carbon.domain.ledger.store import LedgerStore, Place
from aegis_common.clock import Clock
from aegis_common.errors import AegisError, InvalidPageToken
from aegis_common.paging import DEFAULT_PAGE_SIZE, page, place_of, token_of
from aegis_common.rpc.call import current_call
from aegis_common.rpc.errors import to_status

SERVICE: Final = pb.DESCRIPTOR.services_by_name["LedgerService"].full_name
MOST_ROWS: Final = 20_000
_DIMENSIONS: Final = {
    pb.DIMENSION_TENANT: Dimension.TENANT,
    pb.DIMENSION_TOOL: Dimension.TOOL,
    pb.DIMENSION_MODEL: Dimension.MODEL,
    pb.DIMENSION_RUN: Dimension.RUN,
    pb.DIMENSION_ZONE: Dimension.ZONE,
    pb.DIMENSION_DAY: Dimension.DAY,
    pb.DIMENSION_KIND: Dimension.KIND,
}

Context = grpc.aio.ServicerContext[Any, Any]


class LedgerServicer(pb_grpc.LedgerServiceServicer):
    """Translate only; without a ledger, every call says how to get one."""

    def __init__(self, ledger: Ledger | None, store: LedgerStore | None, *, clock: Clock) -> None:
        self._given = ledger
        self._store = store
        self._clock = clock

    async def RecordUsage(self, request: pb.RecordUsageRequest, context: Context) -> pb.RecordUsageResponse:
        ledger, tenant = self._ledger, current_call().principal.tenant
        read = [_read(usage, tenant) for usage in request.usages]
        good = [usage for usage in read if not isinstance(usage, AegisError)]
        recorded = iter(await ledger.record(good, within=time_to_work()))
        outcomes = (found if isinstance(found, AegisError) else next(recorded) for found in read)
        return pb.RecordUsageResponse(outcomes=map(_outcome, outcomes))

    async def GetUsage(self, request: pb.GetUsageRequest, context: Context) -> pb.GetUsageResponse:
        tenant = current_call().principal.tenant
        found = await self._ledger.get(tenant, request.name.removeprefix(USAGES))
        return pb.GetUsageResponse(entry=entry_message(found))

    async def ListUsages(self, request: pb.ListUsagesRequest, context: Context) -> pb.ListUsagesResponse:
        tenant = current_call().principal.tenant
        since = moment(request.since, "since") if request.HasField("since") else None
        until = moment(request.until, "until") if request.HasField("until") else None
        query = f"{SERVICE}/ListUsages {tenant} {since} {until}"
        size = request.page_size or DEFAULT_PAGE_SIZE
        after = _place(request.page_token, query) if request.page_token else None
        found = await self._ledger.newest(tenant, since=since, until=until, after=after, most=size + 1)
        token = token_of(_told(found[size - 1]), query) if len(found) > size else ""
        return pb.ListUsagesResponse(entries=map(entry_message, found[:size]), next_page_token=token)

    async def QueryReport(self, request: pb.QueryReportRequest, context: Context) -> pb.QueryReportResponse:
        query = self._query(request.query)
        rows, token = page(
            await self._report(query),
            key=lambda row: row.key,
            size=request.page_size,
            token=request.page_token,
            query=f"{SERVICE}/QueryReport {query}",
        )
        return pb.QueryReportResponse(rows=map(row_message, rows), next_page_token=token)

    async def ExportReport(
        self, request: pb.ExportReportRequest, context: Context
    ) -> pb.ExportReportResponse:
        rows = await self._report(self._query(request.query))
        if len(rows) > MOST_ROWS:
            raise ReportTooLarge(
                f"the report has {len(rows)} rows; a file has {MOST_ROWS} at most: group by less, or ask for "
                "fewer days",
                rows=str(len(rows)),
            )
        form = request.format or pb.EXPORT_FORMAT_CSV
        body = httpbody_pb2.HttpBody(
            content_type=MEDIA_TYPES[form], data=exported(map(row_message, rows), form)
        )
        return pb.ExportReportResponse(content=body)

    @property
    def _ledger(self) -> Ledger:
        if self._given is None:
            raise _not_configured()
        return self._given

    async def _report(self, query: Query) -> list[Row]:
        if self._store is None:
            raise _not_configured()
        return await report(self._store, query)

    def _query(self, asked: pb.ReportQuery) -> Query:
        principal = current_call().principal
        if asked.all_tenants and "admin" not in principal.roles:
            raise OtherTenants("only an admin sees the usage of all tenants")
        first, last = days_of(
            moment(asked.since, "query.since") if asked.HasField("since") else None,
            moment(asked.until, "query.until") if asked.HasField("until") else None,
            now=self._clock(),
        )
        return Query(
            by=tuple(_DIMENSIONS[dimension] for dimension in asked.by),
            first=first,
            last=last,
            tenant=None if asked.all_tenants else principal.tenant,
        )


def _not_configured() -> LedgerNotConfigured:
    return LedgerNotConfigured(
        "this carbon service has no ledger; set REDIS_URL to a Redis that keeps its writes"
    )


def _read(usage: pb.Usage, tenant: str) -> Any:
    try:
        return usage_of(usage, tenant)
    except AegisError as error:
        return error


def _outcome(found: Entry | AegisError) -> pb.UsageOutcome:
    if isinstance(found, AegisError):
        return pb.UsageOutcome(error=to_status(found))
    return pb.UsageOutcome(entry=entry_message(found))


def _told(entry: Entry) -> str:
    return f"{round(entry.usage.end.timestamp() * 1000)} {entry.usage.id}"


def _place(token: str, query: str) -> Place:
    ended_ms, _, usage_id = place_of(token, query).partition(" ")
    if not ended_ms.isdecimal():
        raise InvalidPageToken("page_token cannot be read; take it from next_page_token")
    return Place(int(ended_ms), usage_id)
