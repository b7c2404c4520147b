"""Seeded generator of the series in the package: `python -m aegis_carbon.adapters.synthetic FILE`.

The shape is plausible (solar dip at noon, evening peak, cleaner weekends, slow weather); no value is that of
a real grid. Only sums and products are used, so that the same seed gives the same file on every machine.
"""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Final

SEED: Final = 20260105
STEP: Final = timedelta(minutes=30)
START: Final = datetime(2026, 1, 5, tzinfo=UTC)  # a Monday
_SLOTS: Final = int(timedelta(days=7) / STEP)
_SATURDAY: Final = 5


@dataclass(frozen=True, slots=True)
class DemoZone:
    """How one made-up grid behaves, in gCO2e/kWh.

    Attributes:
        id: Zone id.
        display_name: Name for people.
        day: Corners (hour, value) of the course of a working day, from 0 to 24 h, joined by straight lines.
        weekend: Factor on Saturday and Sunday.
        noise: Size of the half-hourly shocks; three quarters of one is left after three hours.
        bounds: Least and greatest value.
    """

    id: str
    display_name: str
    day: tuple[tuple[float, float], ...]
    weekend: float
    noise: float
    bounds: tuple[float, float]


ZONES: Final = (
    DemoZone(
        "demo-clean",
        "Demo grid (synthetic): hydro and wind, always below 150",
        ((0, 42), (5, 38), (8, 58), (13, 45), (18, 72), (21, 55), (24, 42)),
        0.9,
        3.0,
        (15, 110),
    ),
    DemoZone(
        "demo-day",
        "Demo grid (synthetic): solar and gas, clean at night and noon, dirty in the evening",
        ((0, 138), (4, 122), (8, 196), (13, 88), (16, 140), (19, 262), (22, 190), (24, 138)),
        0.86,
        5.0,
        (40, 340),
    ),
    DemoZone(
        "demo-dirty",
        "Demo grid (synthetic): coal, always above 150",
        ((0, 520), (5, 490), (9, 600), (13, 540), (19, 660), (22, 580), (24, 520)),
        0.93,
        9.0,
        (380, 780),
    ),
)


def synthetic_week(seed: int = SEED) -> str:
    """Return one week of `ZONES` as a CSV file in the form of `adapters/series.py`."""
    columns = [_column(zone, random.Random(f"{seed}/{zone.id}")) for zone in ZONES]  # noqa: S311  # no secret
    head = [
        "# schema_version: 1",
        "# kind: synthetic",
        "# signal: average",
        f"# step_minutes: {STEP // timedelta(minutes=1)}",
        f"# seed: {seed}",
        *(f"# zone.{zone.id}: {zone.display_name}" for zone in ZONES),
        ",".join(["time", *(zone.id for zone in ZONES)]),
    ]
    rows = [
        ",".join([f"{START + n * STEP:%Y-%m-%dT%H:%MZ}", *(f"{column[n]:.1f}" for column in columns)])
        for n in range(_SLOTS)
    ]
    return "\n".join([*head, *rows, ""])


def _column(zone: DemoZone, chance: random.Random) -> list[float]:
    values, weather = [], 0.0
    low, high = zone.bounds
    for n in range(_SLOTS):
        moment = START + n * STEP
        weather = 0.953 * weather + zone.noise * (2 * chance.random() - 1)
        base = _on_line(zone.day, moment.hour + moment.minute / 60)
        factor = zone.weekend if moment.weekday() >= _SATURDAY else 1.0
        values.append(min(high, max(low, base * factor + weather)))
    return values


def _on_line(corners: tuple[tuple[float, float], ...], hour: float) -> float:
    for (left, low), (right, high) in pairwise(corners):
        if hour <= right:
            return low + (high - low) * (hour - left) / (right - left)
    raise ValueError(f"hour {hour} is not in a day")


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(synthetic_week(), "utf-8")
