"""What work used and emitted: recording it, and reports of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from aegis.carbon.v1 import carbon_service_pb2 as carbon_pb
from aegis.carbon.v1 import ledger_service_pb2 as pb
from aegis_client.core.operation import Listing, Operation, Page, method
from aegis_client.core.status import status_error
from aegis_client.core.values import enum_name, enum_value, known, moment, optional_resource, resource, stamp
from aegis_client.errors import AegisApiError

RECORD_USAGE: Final = method(pb, "LedgerService", "RecordUsage", pb.RecordUsageResponse)
GET_USAGE: Final = method(pb, "LedgerService", "GetUsage", pb.GetUsageResponse)
QUERY_REPORT: Final = method(pb, "LedgerService", "QueryReport", pb.QueryReportResponse)
_PLAIN: Final = (
    *("id", "cpu_seconds", "memory_gib_hours", "gpu_joules", "measured_joules", "units", "unit"),
    *("reserved_cores", "tool", "model", "run", "job", "reservation"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What one piece of work used.

    Attributes:
        id: Unique in the tenant; the same usage may be recorded again under it, and counts once.
        kind: `call`, `job`, `round`, `run` or `command`.
        start_time: When it began, with a time zone.
        end_time: When it ended.
        spans: Pairs of start and end of the times in which it ran; all the time if empty.
        zone: `GB` or `zones/GB`; if empty, the deployment's default zone.
        cpu_seconds: CPU time of one core, of all its processes.
        memory_gib_hours: Memory held, in GiB times hours.
        gpu_joules: Energy of graphics cards.
        measured_joules: Energy of everything else; None: the deployment's power model tells.
        energy_method: `measured_rapl`, `measured_nvml`, `modelled_cpu_time` or `declared_by_user`; if empty,
            declared with `measured_joules`, else modelled.
        units: Units of work done; `unit` says of what, by default the kind.
        reserved_cores: Cores held while it ran; 0 is those it used on average.
        run_now_start_time: When it could have begun without waiting; None states no saving.
    """

    id: str
    kind: str
    start_time: datetime
    end_time: datetime
    spans: Sequence[tuple[datetime, datetime]] = ()
    zone: str = ""
    cpu_seconds: float = 0.0
    memory_gib_hours: float = 0.0
    gpu_joules: float = 0.0
    measured_joules: float | None = None
    energy_method: str = ""
    units: float = 1.0
    unit: str = ""
    reserved_cores: float = 0.0
    run_now_start_time: datetime | None = None
    tool: str = ""
    model: str = ""
    run: str = ""
    job: str = ""
    reservation: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CarbonStatement:
    """What was known of an entry's emissions at one moment; None is not known, and never 0.

    Attributes:
        reason: `recorded`, `actuals` or `gap_filled`.
        grams: Of the energy whose intensity is known, in grams of CO2-equivalent.
        unknown_kwh: Energy whose intensity is not known: it is not in `grams`.
        saved_grams: What waiting saved; below 0 where it made things worse.
        providers: Sources of the intensities.
        intensity_kind: `ACTUAL`, `ESTIMATED`, `FORECAST`, `INHOUSE`, `STATIC`, or `UNSPECIFIED` for none.
    """

    as_of: datetime | None
    reason: str
    grams: float | None
    grams_low: float | None
    grams_high: float | None
    unknown_kwh: float
    run_now_grams: float | None
    saved_grams: float | None
    providers: tuple[str, ...]
    signal: str
    intensity_kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageEntry:
    """A usage in the ledger.

    Attributes:
        name: `usages/{id}`.
        kwh: Energy with the overhead of the building; `kwh_low` to `kwh_high` is its interval.
        estimated: True unless energy and intensity were measured.
        statements: What was known of its emissions, the newest last.
        final: True when it will not be stated anew.
    """

    name: str
    zone: str
    energy_method: str
    kwh: float
    kwh_low: float
    kwh_high: float
    estimated: bool
    embodied_grams: float | None
    statements: tuple[CarbonStatement, ...]
    final: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportRow:
    """The sums of one group; None is not known, and never 0. See the field comments of the proto."""

    tenant: str
    tool: str
    model: str
    run: str
    zone: str
    day: str
    kind: str
    signal: str
    unit: str
    entries: int
    units: float
    kwh: float
    kwh_low: float
    kwh_high: float
    grams: float | None
    grams_low: float | None
    grams_high: float | None
    unknown_kwh: float
    embodied_grams: float | None
    sci_g_per_unit: float | None
    compared_entries: int
    saved_grams: float | None
    worse_entries: int
    measured_share: float
    estimated: bool


def record_usage_operation(
    usages: Sequence[Usage], *, timeout: float | None = None
) -> Operation[list[UsageEntry | AegisApiError]]:
    """Record what work used: up to 1000 usages, an entry or an error for each, in their order.

    Args:
        usages: Safe to send again: an id counts once.
        timeout: Deadline of the call, in seconds.

    Raises:
        FailedPrecondition: Reason `LEDGER_NOT_CONFIGURED`.
        Unavailable: Reason `LEDGER_UNAVAILABLE`.
    """
    request = pb.RecordUsageRequest(usages=map(_usage, usages))
    return Operation(RECORD_USAGE, request, _read_outcomes, timeout)


def usage_operation(name: str, *, timeout: float | None = None) -> Operation[UsageEntry]:
    """Return an entry of the ledger with all its statements.

    Args:
        name: Its id, or `usages/{id}`.
        timeout: Deadline of the call, in seconds.

    Raises:
        NotFound: Reason `UNKNOWN_USAGE`.
    """
    request = pb.GetUsageRequest(name=resource("usages", name))
    return Operation(GET_USAGE, request, lambda answer: _read_entry(answer.entry), timeout)


def report_listing(
    *,
    by: Sequence[str] = (),
    since: datetime | None = None,
    until: datetime | None = None,
    all_tenants: bool = False,
    page_size: int = 0,
) -> Listing[ReportRow]:
    """Iterate over the rows of a report: energy, grams, SCI and savings, added up by groups.

    Args:
        by: Of `tenant`, `tool`, `model`, `run`, `zone`, `day` and `kind`; none is one row for everything.
        since: First day, that of this moment, with a time zone; None is 30 days before `until`.
        until: Last day, that of the last moment before this one; None is today.
        all_tenants: Everyone's usage; for admins.
        page_size: Most rows that are fetched at once.

    Raises:
        PermissionDenied: Reason `OTHER_TENANTS`.
    """
    query = pb.ReportQuery(
        by=[pb.Dimension.ValueType(enum_value(pb.Dimension, name, "by")) for name in by],
        since=stamp(since, "since"),
        until=stamp(until, "until"),
        all_tenants=all_tenants,
    )

    def fetch(token: str) -> Operation[Page[ReportRow]]:
        request = pb.QueryReportRequest(query=query, page_size=page_size, page_token=token)
        return Operation(QUERY_REPORT, request, _read_rows)

    return Listing(fetch)


def _usage(usage: Usage) -> pb.Usage:
    named = usage.energy_method
    return pb.Usage(
        **{name: getattr(usage, name) for name in _PLAIN},
        kind=pb.UsageKind.ValueType(enum_value(pb.UsageKind, usage.kind, "kind")),
        energy_method=pb.EnergyMethod.ValueType(
            enum_value(pb.EnergyMethod, named, "energy_method") if named else 0
        ),
        zone=optional_resource("zones", usage.zone),
        start_time=stamp(usage.start_time, "start_time"),
        end_time=stamp(usage.end_time, "end_time"),
        run_now_start_time=stamp(usage.run_now_start_time, "run_now_start_time"),
        spans=[
            pb.UsageSpan(start_time=stamp(start, "spans"), end_time=stamp(end, "spans"))
            for start, end in usage.spans
        ],
    )


def _read_outcomes(answer: pb.RecordUsageResponse) -> list[UsageEntry | AegisApiError]:
    return [
        status_error(found.error, "") if found.HasField("error") else _read_entry(found.entry)
        for found in answer.outcomes
    ]


def _read_entry(entry: pb.UsageEntry) -> UsageEntry:
    return UsageEntry(
        name=entry.name,
        zone=entry.usage.zone,
        energy_method=enum_name(pb.EnergyMethod, entry.usage.energy_method),
        kwh=entry.kwh,
        kwh_low=entry.kwh_low,
        kwh_high=entry.kwh_high,
        estimated=entry.estimated,
        embodied_grams=known(entry, "embodied_grams"),
        statements=tuple(map(_read_statement, entry.statements)),
        final=entry.final,
    )


def _read_statement(found: pb.Statement) -> CarbonStatement:
    return CarbonStatement(
        as_of=moment(found, "as_of"),
        reason=found.reason,
        grams=known(found, "grams"),
        grams_low=known(found, "grams_low"),
        grams_high=known(found, "grams_high"),
        unknown_kwh=found.unknown_kwh,
        run_now_grams=known(found, "run_now_grams"),
        saved_grams=known(found, "saved_grams"),
        providers=tuple(found.providers),
        signal=enum_name(carbon_pb.Signal, found.signal),
        intensity_kind=enum_name(pb.IntensityKind, found.intensity_kind),
    )


def _read_rows(answer: pb.QueryReportResponse) -> Page[ReportRow]:
    return Page([_read_row(row) for row in answer.rows], answer.next_page_token)


def _read_row(row: pb.ReportRow) -> ReportRow:
    values: dict[str, Any] = {}
    for field in dataclasses.fields(ReportRow):
        presence = row.DESCRIPTOR.fields_by_name[field.name].has_presence
        values[field.name] = known(row, field.name) if presence else getattr(row, field.name)
    kind = enum_name(pb.UsageKind, row.kind)
    values["kind"] = "" if kind == "UNSPECIFIED" else kind
    values["signal"] = enum_name(carbon_pb.Signal, row.signal)
    return ReportRow(**values)
