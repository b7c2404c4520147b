"""Between protobuf and the ledger."""

from __future__ import annotations

from typing import Final

from aegis.carbon.v1 import ledger_service_pb2 as pb
from aegis_carbon.adapters.convert import SIGNALS, ZONES, moment
from aegis_carbon.domain.ledger.emissions import IntensityKind
from aegis_carbon.domain.ledger.entry import Entry, Statement
from aegis_carbon.domain.ledger.report import Dimension, Row
from aegis_carbon.domain.ledger.usage import EnergyMethod, Kind, Usage
from aegis_common.rpc.times import timestamp

USAGES: Final = "usages/"
KINDS: Final = {
    pb.USAGE_KIND_CALL: Kind.CALL,
    pb.USAGE_KIND_JOB: Kind.JOB,
    pb.USAGE_KIND_ROUND: Kind.ROUND,
    pb.USAGE_KIND_RUN: Kind.RUN,
    pb.USAGE_KIND_COMMAND: Kind.COMMAND,
}
METHODS: Final = {
    pb.ENERGY_METHOD_MEASURED_RAPL: EnergyMethod.MEASURED_RAPL,
    pb.ENERGY_METHOD_MEASURED_NVML: EnergyMethod.MEASURED_NVML,
    pb.ENERGY_METHOD_MODELLED_CPU_TIME: EnergyMethod.MODELLED_CPU_TIME,
    pb.ENERGY_METHOD_DECLARED_BY_USER: EnergyMethod.DECLARED_BY_USER,
}
_KIND_NAMES: Final = {kind: number for number, kind in KINDS.items()}
_METHOD_NAMES: Final = {method: number for number, method in METHODS.items()}
_INTENSITY_KINDS: Final = {
    None: pb.INTENSITY_KIND_UNSPECIFIED,
    IntensityKind.ACTUAL: pb.INTENSITY_KIND_ACTUAL,
    IntensityKind.ESTIMATED: pb.INTENSITY_KIND_ESTIMATED,
    IntensityKind.FORECAST: pb.INTENSITY_KIND_FORECAST,
    IntensityKind.INHOUSE: pb.INTENSITY_KIND_INHOUSE,
    IntensityKind.STATIC: pb.INTENSITY_KIND_STATIC,
}


def usage_of(usage: pb.Usage, tenant: str) -> Usage:
    """Return what a caller of *tenant* sent.

    Raises:
        InvalidArgument: A time is none.
    """
    told = usage.HasField("measured_joules")
    by_default = EnergyMethod.DECLARED_BY_USER if told else EnergyMethod.MODELLED_CPU_TIME
    waited = usage.HasField("run_now_start_time")
    return Usage(
        id=usage.id,
        tenant=tenant,
        kind=KINDS[usage.kind],
        start=moment(usage.start_time, "start_time"),
        end=moment(usage.end_time, "end_time"),
        zone=usage.zone.removeprefix(ZONES),
        spans=tuple(
            (moment(span.start_time, "spans"), moment(span.end_time, "spans")) for span in usage.spans
        ),
        cpu_seconds=usage.cpu_seconds,
        memory_gib_hours=usage.memory_gib_hours,
        gpu_joules=usage.gpu_joules,
        measured_joules=usage.measured_joules if told else None,
        method=METHODS.get(usage.energy_method, by_default),
        units=usage.units if usage.HasField("units") else 1.0,
        unit=usage.unit,
        reserved_cores=usage.reserved_cores,
        run_now_start=moment(usage.run_now_start_time, "run_now_start_time") if waited else None,
        tool=usage.tool,
        model=usage.model,
        run=usage.run,
        job=usage.job,
        reservation=usage.reservation,
    )


def usage_message(usage: Usage) -> pb.Usage:
    return pb.Usage(
        id=usage.id,
        kind=_KIND_NAMES[usage.kind],
        start_time=timestamp(usage.start),
        end_time=timestamp(usage.end),
        spans=[
            pb.UsageSpan(start_time=timestamp(start), end_time=timestamp(end)) for start, end in usage.spans
        ],
        zone=ZONES + usage.zone,
        cpu_seconds=usage.cpu_seconds,
        memory_gib_hours=usage.memory_gib_hours,
        gpu_joules=usage.gpu_joules,
        measured_joules=usage.measured_joules,
        energy_method=_METHOD_NAMES[usage.method],
        units=usage.units,
        unit=usage.unit,
        reserved_cores=usage.reserved_cores,
        run_now_start_time=timestamp(usage.run_now_start),
        tool=usage.tool,
        model=usage.model,
        run=usage.run,
        job=usage.job,
        reservation=usage.reservation,
    )


def entry_message(entry: Entry) -> pb.UsageEntry:
    kwh = entry.energy.kwh
    return pb.UsageEntry(
        name=USAGES + entry.usage.id,
        usage=usage_message(entry.usage),
        kwh=kwh.value,
        kwh_low=kwh.low,
        kwh_high=kwh.high,
        estimated=entry.estimated,
        embodied_grams=entry.embodied_g,
        statements=map(_statement, entry.statements),
        final=entry.final,
        record_time=timestamp(entry.recorded_at),
        expire_time=timestamp(entry.expires_at),
    )


def row_message(row: Row) -> pb.ReportRow:
    amounts, group = row.amounts, row.group
    kind = group.get(Dimension.KIND)
    known = row.grams is not None
    return pb.ReportRow(
        tenant=group.get(Dimension.TENANT, ""),
        tool=group.get(Dimension.TOOL, ""),
        model=group.get(Dimension.MODEL, ""),
        run=group.get(Dimension.RUN, ""),
        zone=ZONES + group[Dimension.ZONE] if Dimension.ZONE in group else "",
        day=group.get(Dimension.DAY, ""),
        kind=_KIND_NAMES[Kind(kind)] if kind else pb.USAGE_KIND_UNSPECIFIED,
        signal=SIGNALS[row.signal],
        unit=row.unit,
        entries=round(amounts["entries"]),
        units=amounts["units"],
        kwh=amounts["kwh"],
        kwh_low=amounts["kwh_low"],
        kwh_high=amounts["kwh_high"],
        grams=row.grams,
        grams_low=amounts["grams_low"] if known else None,
        grams_high=amounts["grams_high"] if known else None,
        unknown_kwh=amounts["unknown_kwh"] if amounts["unknown"] else 0.0,
        embodied_grams=row.embodied_g,
        sci_g_per_unit=row.sci,
        compared_entries=round(amounts["compared"]),
        saved_grams=row.saved_g,
        worse_entries=round(amounts["worse"]),
        measured_share=row.measured_share,
        estimated=amounts["estimated"] > 0,
    )


def _statement(found: Statement) -> pb.Statement:
    grams = found.grams
    return pb.Statement(
        as_of=timestamp(found.as_of),
        reason=found.reason,
        grams=grams.value if grams else None,
        grams_low=grams.low if grams else None,
        grams_high=grams.high if grams else None,
        unknown_kwh=found.unknown_kwh,
        run_now_grams=found.run_now_grams,
        saved_grams=found.saved_grams,
        providers=found.providers,
        signal=SIGNALS[found.signal],
        intensity_kind=_INTENSITY_KINDS[found.kind],
    )
