"""Files of intensities: CSV or JSON, read whole, checked by name and line.

CSV: comment lines `# key: value` (`schema_version`, `kind`, `signal`, `step_minutes`, and `zone.ID: NAME` for
the display names), then a header `time,ZONE,...`, then rows. An empty cell is a gap.
JSON: the same keys, with `"zones": {ID: {"display_name": ..., "points": [[TIME, VALUE or null], ...]}}`.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, NoReturn

from aegis_carbon.domain.intensity import LONGEST_SLOT, Quality, Signal
from aegis_common.errors import ConfigurationError

SCHEMA_VERSION: Final = 1
MAX_FILE_BYTES: Final = 64 << 20
KINDS: Final = {kind.value: kind for kind in (Quality.ACTUAL, Quality.FORECAST, Quality.SYNTHETIC)}
_WEEK: Final = timedelta(days=7)


@dataclass(frozen=True)
class Series:
    """A recorded or generated series of some zones, in steps of one length.

    Attributes:
        kind: What the file says of its values: actual, forecast or synthetic.
        signal: What they are averages of.
        step: Length of a slot.
        names: Display name by zone id.
        values: gCO2e/kWh by start of slot (UTC), by zone id; a gap has no entry.
        start: Start of the first slot.
        end: End of the last slot.
    """

    kind: Quality
    signal: Signal
    step: timedelta
    names: Mapping[str, str]
    values: Mapping[str, Mapping[datetime, float]]
    start: datetime
    end: datetime

    def slot(self, moment: datetime, later: timedelta = timedelta(0)) -> tuple[datetime, bool]:
        """Return the start of the recorded slot that stands for a time, and whether it was shifted in time.

        Within the series it is the slot around that time. Outside, the series repeats in whole weeks, so that
        the weekday and the time of day (UTC) match.

        Args:
            moment: The time.
            later: Added to it; a sum that no calendar has will do.
        """
        period = math.ceil((self.end - self.start) / _WEEK) * _WEEK
        offset = moment - self.start + later
        shifted = not timedelta(0) <= offset < self.end - self.start
        if shifted:
            offset %= period
        return self.start + offset // self.step * self.step, shifted


def read_series(path: Path) -> Series:
    """Read a CSV or JSON file.

    Raises:
        ConfigurationError: It cannot be read, is too large, or something in it is wrong: which, and where.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            _refuse(path, f"is longer than {MAX_FILE_BYTES} bytes")
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"series file {path} cannot be read: {error}", path=str(path)) from error
    return _from_json(path, text) if path.suffix == ".json" else _from_csv(path, text)


def _from_csv(path: Path, text: str) -> Series:
    lines = text.splitlines()
    comments = [line[1:].partition(":") for line in lines if line.startswith("#")]
    head = {key.strip(): value.strip() for key, _, value in comments}
    rows = [(n, row) for n, row in enumerate(csv.reader(lines), 1) if row and not row[0].startswith("#")]
    if not rows or rows[0][1][0] != "time" or len(rows[0][1]) < 2:
        _refuse(path, "has no header line `time,ZONE,...`")
    zones = rows[0][1][1:]
    points: dict[str, list[tuple[Any, Any]]] = {zone: [] for zone in zones}
    for number, row in rows[1:]:
        if len(row) != len(zones) + 1:
            _refuse(path, f"line {number}: {len(row)} cells where {len(zones) + 1} are due")
        for zone, cell in zip(zones, row[1:], strict=True):
            points[zone].append((row[0], cell or None))
    names = {zone: head.get(f"zone.{zone}", zone) for zone in zones}
    return _series(path, head, names, points)


def _from_json(path: Path, text: str) -> Series:
    try:
        data = json.loads(text)
        zones = data["zones"]
        points = {
            str(zone): [(time, value) for time, value in body["points"]] for zone, body in zones.items()
        }
        names = {str(zone): str(body.get("display_name", zone)) for zone, body in zones.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigurationError(f"series file {path} is not in the JSON form: {error!r}") from error
    return _series(path, data, names, points)


def _series(
    path: Path, head: Mapping[str, Any], names: Mapping[str, str], points: Mapping[str, list[tuple[Any, Any]]]
) -> Series:
    if str(head.get("schema_version")) != str(SCHEMA_VERSION):
        _refuse(path, f"has schema_version {head.get('schema_version')}; this reader knows {SCHEMA_VERSION}")
    kind = KINDS.get(str(head.get("kind"))) or _refuse(path, f"has no kind among {', '.join(KINDS)}")
    try:
        signal = Signal(str(head.get("signal", Signal.AVERAGE.value)))
        step = timedelta(minutes=float(head["step_minutes"]))
    except (ValueError, KeyError) as error:
        raise ConfigurationError(f"series file {path}: signal or step_minutes is wrong: {error!r}") from error
    if not timedelta(0) < step <= LONGEST_SLOT:
        _refuse(path, f"has step_minutes {head['step_minutes']}; it is more than 0 and at most a day")
    values = {zone: _values(path, zone, rows) for zone, rows in points.items()}
    times = [time for rows in values.values() for time in rows]
    if not times:
        _refuse(path, "has no values")
    start = min(times)
    for time in times:
        if (time - start) % step:
            _refuse(path, f"time {time.isoformat()} is not a multiple of {step} after {start.isoformat()}")
    return Series(kind, signal, step, names, values, start, max(times) + step)


def _values(path: Path, zone: str, rows: list[tuple[Any, Any]]) -> dict[datetime, float]:
    found: dict[datetime, float] = {}
    for text, cell in rows:
        try:
            moment = datetime.fromisoformat(text)
            moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
            value = None if cell is None else float(cell)
        except (ValueError, TypeError):
            _refuse(path, f"zone {zone}: {text!r}, {cell!r} is not a time and a number")
        if value is None:
            continue
        if not (math.isfinite(value) and value >= 0):
            _refuse(path, f"zone {zone}: {text}: {value} is not a finite number of at least 0")
        if moment in found:
            _refuse(path, f"zone {zone}: {text} stands there twice")
        found[moment] = value
    return found


def _refuse(path: Path, fault: str) -> NoReturn:
    raise ConfigurationError(f"series file {path} {fault}", path=str(path))
