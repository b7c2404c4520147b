"""The stored form of a reservation: JSON with a schema version."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, Final

from aegis_carbon.domain.job import Interruption, Plan, PowerStep, Span
from aegis_carbon.domain.reservations.errors import UnreadableReservation
from aegis_carbon.domain.reservations.reservation import (
    Kind,
    OnMissing,
    Reason,
    Reservation,
    Signal,
    State,
)

SCHEMA_VERSION: Final = 1
_MOMENTS: Final = ("earliest", "deadline", "created", "running_since", "started", "ended", "expires")
_TIMES: Final = ("duration", "margin", "max_hold", "done")


def to_record(item: Reservation) -> str:
    """Return *item* as text: moments in ISO 8601, times in seconds."""
    data = {"schema_version": SCHEMA_VERSION, **asdict(item)}
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False, default=_plain)


def from_record(record: str | bytes) -> Reservation:
    """Read what `to_record` wrote.

    Raises:
        UnreadableReservation: It did not; the message names an unknown schema version.
    """
    try:
        data = json.loads(record)
        version = data.pop("schema_version")
        if version != SCHEMA_VERSION:
            raise UnreadableReservation(
                f"a reservation has schema version {version}; this reader knows {SCHEMA_VERSION}",
                schema_version=str(version),
            )
        data.update({name: _moment(data[name]) for name in _MOMENTS})
        data.update({name: timedelta(seconds=data[name]) for name in _TIMES})
        data["zones"] = tuple(data["zones"])
        data["interruption"] = _interruption(data["interruption"])
        data["power"] = tuple(
            PowerStep(timedelta(seconds=part["duration"]), part["kw"]) for part in data["power"]
        )
        data["on_missing"] = OnMissing(data["on_missing"])
        data["state"] = State(data["state"])
        data["spans"] = _spans(data["spans"])
        data["plan"] = _plan(data["plan"])
        data["signal"] = _signal(data["signal"])
        return Reservation(**data)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnreadableReservation("a reservation cannot be read") from error


def _plain(value: object) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Enum):
        return value.value
    raise TypeError(f"{type(value).__name__} has no stored form")


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _spans(found: list[dict[str, str]]) -> tuple[Span, ...]:
    return tuple(
        Span(datetime.fromisoformat(span["start"]), datetime.fromisoformat(span["end"])) for span in found
    )


def _interruption(found: dict[str, Any] | None) -> Interruption | None:
    if found is None:
        return None
    return Interruption(
        min_chunk=timedelta(seconds=found["min_chunk"]),
        max_interruptions=found["max_interruptions"],
        resume_overhead=timedelta(seconds=found["resume_overhead"]),
    )


def _plan(found: dict[str, Any] | None) -> Plan | None:
    return None if found is None else Plan(**{**found, "spans": _spans(found["spans"])})


def _signal(found: dict[str, Any] | None) -> Signal | None:
    if found is None:
        return None
    moments = {name: _moment(found[name]) for name in ("time", "until", "latest_start")}
    return Signal(**{**found, **moments, "kind": Kind(found["kind"]), "reason": Reason(found["reason"])})
