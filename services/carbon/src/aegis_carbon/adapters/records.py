"""The stored form of a cache entry: JSON with a schema version."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, Final

from aegis_carbon.domain.intensity import INTENSITY_TYPES, Intensity, Quality, Signal
from aegis_carbon.domain.providers import CacheEntry

SCHEMA_VERSION: Final = 1


class UnreadableRecord(ValueError):
    """The record is broken, or of a schema version that this reader does not know."""


def to_record(entry: CacheEntry) -> str:
    return json.dumps(
        {
            "schema_version": SCHEMA_VERSION,
            "ask_after": entry.ask_after.isoformat(),
            "fault": entry.fault,
            "intensity": _intensity_record(entry.intensity) if entry.intensity else None,
        },
        separators=(",", ":"),
    )


def from_record(record: str | bytes) -> CacheEntry:
    """Read what `to_record` wrote.

    Raises:
        UnreadableRecord: It did not; the message names an unknown schema version.
    """
    try:
        data = json.loads(record)
        version = data["schema_version"]
        if version != SCHEMA_VERSION:
            raise UnreadableRecord(f"record has schema version {version}; this reader knows {SCHEMA_VERSION}")
        intensity = data["intensity"]
        return CacheEntry(
            _intensity(intensity) if intensity is not None else None,
            _moment(data["ask_after"]),
            str(data["fault"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, UnreadableRecord):
            raise
        raise UnreadableRecord("record cannot be read") from error


def _intensity_record(intensity: Intensity) -> dict[str, Any]:
    return {
        "zone": intensity.zone,
        "g_per_kwh": intensity.g_per_kwh,
        "start": intensity.start.isoformat(),
        "end": intensity.end.isoformat(),
        "signal": intensity.signal.value,
        "quality": intensity.quality.value,
        "source": intensity.source,
        "fetched_at": intensity.fetched_at.isoformat(),
    }


def _intensity(data: dict[str, Any]) -> Intensity:
    return INTENSITY_TYPES[Signal(data["signal"])](
        zone=str(data["zone"]),
        g_per_kwh=float(data["g_per_kwh"]),
        start=_moment(data["start"]),
        end=_moment(data["end"]),
        quality=Quality(data["quality"]),
        source=str(data["source"]),
        fetched_at=_moment(data["fetched_at"]),
    )


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"time {text!r} has no zone")
    return moment
