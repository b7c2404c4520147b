"""Printing: results as JSON, or as text in columns."""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import typer

from aegis_client.errors import AegisApiError


def print_json(value: Any) -> None:
    typer.echo(json.dumps(jsonable(value), indent=2, ensure_ascii=False))


def print_json_line(value: Any) -> None:
    typer.echo(json.dumps(jsonable(value), ensure_ascii=False))


def jsonable(value: Any) -> Any:
    """Return results as JSON values: times in ISO 8601, durations as `NAME_s` in seconds, bytes in base64."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _entries({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    if isinstance(value, AegisApiError):
        return {
            "code": value.code,
            "reason": value.reason,
            "message": value.message,
            "metadata": value.metadata,
        }
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [jsonable(item) for item in value]
    return value


def _entries(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {
        f"{name}_s" if isinstance(item, timedelta) else name: jsonable(item)
        for name, item in fields.items()
        if item is not None
    }


def print_table(head: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str = "none") -> None:
    """Print columns, each as wide as its widest cell; *empty* when there is no row."""
    table = [[printable(str(cell)) for cell in row] for row in rows]
    if not table:
        typer.echo(empty)
        return
    table.insert(0, [name.upper() for name in head])
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    for row in table:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        typer.echo("  ".join(cells).rstrip())


def printable(text: str) -> str:
    """Return *text* without what a terminal would obey, such as an escape sequence in a file's name."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def print_fields(fields: Mapping[str, object]) -> None:
    """Print one field a line; those that are empty are left out."""
    shown = {name: printable(str(value)) for name, value in fields.items() if value not in (None, "")}
    width = max(map(len, shown), default=0)
    for name, value in shown.items():
        typer.echo(f"{name.ljust(width)}  {value}")


def seconds(value: timedelta | None) -> str:
    """Return a duration for people, for example `420 ms` or `3 min 5 s`."""
    if value is None:
        return "-"
    total = value.total_seconds()
    if total < 1:
        return f"{round(total * 1000)} ms"
    if total < 60:
        return f"{total:.3g} s"
    minutes, rest = divmod(round(total), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def size(count: float) -> str:
    """Return a number of bytes for people, for example `1.5 MiB`."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} GiB"


def clock(value: datetime | None) -> str:
    return value.strftime("%Y-%m-%d %H:%M:%SZ") if value else "-"


def short(name: str) -> str:
    """Return the last part of a resource name."""
    return name.rpartition("/")[2]
