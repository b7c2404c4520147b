"""The stored form of a cache entry: JSON with a schema version; the values of a series packed."""

from __future__ import annotations

import base64
import json
import zlib
from datetime import datetime, timedelta
from typing import Any, Final

import numpy as np

from aegis_carbon.domain.intensity import INTENSITY_TYPES, Intensity, Quality, Signal
from aegis_carbon.domain.known import Known
from aegis_carbon.domain.places import GridZone
from aegis_carbon.domain.providers import CacheEntry
from aegis_carbon.domain.timeseries import IntensitySeries

SCHEMA_VERSION: Final = 1
_MICROSECOND: Final = timedelta(microseconds=1)
_MOST_BYTES: Final = 8 << 20


class UnreadableRecord(ValueError):
    """The record is broken, or of a schema version that this reader does not know."""


def to_record(entry: CacheEntry[Intensity] | CacheEntry[Known] | CacheEntry[GridZone]) -> str:
    return json.dumps(
        {
            "schema_version": SCHEMA_VERSION,
            "ask_after": entry.ask_after.isoformat(),
            "fault": entry.fault,
            "intensity": _intensity_record(entry.value) if isinstance(entry.value, Intensity) else None,
            "known": _known_record(entry.value) if isinstance(entry.value, Known) else None,
            "place": _place_record(entry.value) if isinstance(entry.value, GridZone) else None,
        },
        separators=(",", ":"),
    )


def from_record(record: str | bytes) -> CacheEntry[Any]:
    """Read what `to_record` wrote.

    Raises:
        UnreadableRecord: It did not; the message names an unknown schema version.
    """
    try:
        data = json.loads(record)
        version = data["schema_version"]
        if version != SCHEMA_VERSION:
            raise UnreadableRecord(f"record has schema version {version}; this reader knows {SCHEMA_VERSION}")
        intensity, known = data["intensity"], data.get("known")
        value: Intensity | Known | GridZone | None = None
        if (place := data.get("place")) is not None:
            value = GridZone(str(place["name"]), str(place["naming"]))
        elif intensity is not None:
            value = _intensity(intensity)
        elif known is not None:
            value = _known(known)
        return CacheEntry(value, _moment(data["ask_after"]), str(data["fault"]))
    except (ValueError, KeyError, TypeError, zlib.error) as error:
        if isinstance(error, UnreadableRecord):
            raise
        raise UnreadableRecord("record cannot be read") from error


def _place_record(found: GridZone) -> dict[str, str]:
    return {"name": found.name, "naming": found.naming}


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


def _known_record(known: Known) -> dict[str, Any]:
    series = known.series
    return {
        "zone": series.zone,
        "signal": series.signal.value,
        "start": series.start.isoformat(),
        "step_us": series.step // _MICROSECOND,
        "day_us": series.day // _MICROSECOND,
        "values": base64.b64encode(zlib.compress(series.values.astype("<f8").tobytes(), 1)).decode(),
        "source": known.source,
        "quality": known.quality.value,
        "issued_at": known.issued_at.isoformat(),
    }


def _known(data: dict[str, Any]) -> Known:
    unpacking = zlib.decompressobj()
    packed = unpacking.decompress(base64.b64decode(data["values"], validate=True), _MOST_BYTES)
    if not unpacking.eof:
        raise ValueError("values are cut off, or too many")
    series = IntensitySeries(
        zone=str(data["zone"]),
        signal=Signal(data["signal"]),
        start=_moment(data["start"]),
        step=int(data["step_us"]) * _MICROSECOND,
        day=int(data["day_us"]) * _MICROSECOND,
        values=np.frombuffer(packed, "<f8").astype(np.float64),
    )
    return Known(
        series=series,
        source=str(data["source"]),
        quality=Quality(data["quality"]),
        issued_at=_moment(data["issued_at"]),
    )


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"time {text!r} has no zone")
    return moment
