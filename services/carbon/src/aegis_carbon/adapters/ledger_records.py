"""The stored form of an entry of the ledger: JSON with a schema version."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime
from typing import Any, Final

from aegis_carbon.domain.intensity import Signal
from aegis_carbon.domain.ledger.emissions import IntensityKind
from aegis_carbon.domain.ledger.entry import Cell, Entry, Statement
from aegis_carbon.domain.ledger.errors import UnreadableEntry
from aegis_carbon.domain.ledger.usage import Energy, EnergyMethod, Estimate, Kind, Usage

SCHEMA_VERSION: Final = 1


def to_record(entry: Entry) -> str:
    data = {
        "schema_version": SCHEMA_VERSION,
        "usage": asdict(entry.usage),
        "kwh": _numbers(entry.energy.kwh),
        "measured_kwh": entry.energy.measured_kwh,
        "embodied_g": entry.embodied_g,
        "statements": [_statement_record(statement) for statement in entry.statements],
        "recorded_at": entry.recorded_at,
        "expires_at": entry.expires_at,
        "revision": entry.revision,
        "final": entry.final,
    }
    return json.dumps(data, separators=(",", ":"), default=datetime.isoformat)


def from_record(record: str | bytes) -> Entry:
    """Read what `to_record` wrote.

    Raises:
        UnreadableEntry: It did not; the message names an unknown schema version.
    """
    try:
        data = json.loads(record)
        version = data["schema_version"]
        if version != SCHEMA_VERSION:
            raise UnreadableEntry(
                f"a ledger entry has schema version {version}; this reader knows {SCHEMA_VERSION}",
                schema_version=str(version),
            )
        return Entry(
            usage=_usage(data["usage"]),
            energy=Energy(Estimate(*data["kwh"]), float(data["measured_kwh"])),
            embodied_g=data["embodied_g"],
            statements=tuple(map(_statement, data["statements"])),
            recorded_at=_moment(data["recorded_at"]),
            expires_at=_moment(data["expires_at"]),
            revision=int(data["revision"]),
            final=bool(data["final"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise UnreadableEntry("a ledger entry cannot be read") from error


def cell_record(cell: Cell) -> str:
    return json.dumps(cell, separators=(",", ":"), ensure_ascii=False, default=lambda signal: signal.value)


def cell_of(record: str) -> Cell:
    kind, tool, model, run, zone, signal, unit = json.loads(record)
    return Cell(Kind(kind), tool, model, run, zone, Signal(signal), unit)


def _numbers(found: Estimate | None) -> list[float] | None:
    return None if found is None else [found.value, found.low, found.high]


def _statement_record(found: Statement) -> dict[str, Any]:
    return {
        "as_of": found.as_of,
        "reason": found.reason,
        "grams": _numbers(found.grams),
        "unknown_kwh": found.unknown_kwh,
        "run_now_grams": found.run_now_grams,
        "providers": found.providers,
        "signal": found.signal.value,
        "kind": found.kind.name.lower() if found.kind else None,
    }


def _statement(data: dict[str, Any]) -> Statement:
    return Statement(
        as_of=_moment(data["as_of"]),
        reason=str(data["reason"]),
        grams=Estimate(*data["grams"]) if data["grams"] is not None else None,
        unknown_kwh=float(data["unknown_kwh"]),
        run_now_grams=data["run_now_grams"],
        providers=tuple(data["providers"]),
        signal=Signal(data["signal"]),
        kind=IntensityKind[data["kind"].upper()] if data["kind"] else None,
    )


def _usage(data: dict[str, Any]) -> Usage:
    run_now = data["run_now_start"]
    return Usage(
        **{
            **data,
            "kind": Kind(data["kind"]),
            "method": EnergyMethod(data["method"]),
            "start": _moment(data["start"]),
            "end": _moment(data["end"]),
            "spans": tuple((_moment(start), _moment(end)) for start, end in data["spans"]),
            "run_now_start": _moment(run_now) if run_now is not None else None,
        }
    )


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"time {text!r} has no zone")
    return moment
