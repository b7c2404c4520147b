"""A report as a file: CSV or JSON, with the columns of `ReportRow` in both."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from typing import Any, Final

from aegis.carbon.v1 import carbon_service_pb2 as carbon_pb
from aegis.carbon.v1 import ledger_service_pb2 as pb

MEDIA_TYPES: Final = {
    pb.EXPORT_FORMAT_CSV: "text/csv; charset=utf-8",
    pb.EXPORT_FORMAT_JSON: "application/json",
}
COLUMNS: Final = tuple(field.name for field in pb.ReportRow.DESCRIPTOR.fields)
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


def exported(rows: Iterable[pb.ReportRow], form: pb.ExportFormat.ValueType) -> bytes:
    """Return the file; what is not known is an empty cell, or null."""
    found = [_values(row) for row in rows]
    if form == pb.EXPORT_FORMAT_JSON:
        return json.dumps(found, ensure_ascii=False).encode()
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in found)
    return text.getvalue().encode()


def _values(row: pb.ReportRow) -> dict[str, Any]:
    known = {field.name for field, _ in row.ListFields()}
    found = {
        field.name: getattr(row, field.name) if field.name in known or not field.has_presence else None
        for field in row.DESCRIPTOR.fields
    }
    found["signal"] = carbon_pb.Signal.Name(row.signal).removeprefix("SIGNAL_").lower()
    kind = pb.UsageKind.Name(row.kind).removeprefix("USAGE_KIND_").lower()
    found["kind"] = "" if kind == "unspecified" else kind
    return found


def _cell(value: Any) -> Any:
    # A spreadsheet would run a label that begins like a formula.
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return value
