"""A measured year from a CSV file with the columns `Time,Carbon Intensity` (UTC, no zone in the text)."""

from __future__ import annotations

import csv
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np

from aegis_carbon.domain.intensity import Signal
from aegis_carbon.domain.timeseries import IntensitySeries

STEP: Final = timedelta(minutes=30)
PER_DAY: Final = 48
PER_WEEK: Final = 336


def read_measured(path: Path) -> IntensitySeries:
    """Return the series in half hours; rows between them are left out, as the paper does.

    Raises:
        SystemExit: The file is not of that form, or has a gap.
    """
    try:
        with path.open(newline="") as lines:
            rows = [
                (datetime.fromisoformat(row["Time"]), float(row["Carbon Intensity"]))
                for row in csv.DictReader(lines)
            ]
    except (OSError, KeyError, ValueError) as error:
        raise SystemExit(
            f"{path} is no CSV file with the columns `Time,Carbon Intensity`: {error!r}; "
            "give one with make bench-carbon SERIES=path"
        ) from error
    kept = [(moment, value) for moment, value in rows if moment.minute % 30 == 0]
    if not kept:
        raise SystemExit(f"{path} has no rows; give another file with make bench-carbon SERIES=path")
    for (before, _), (moment, _) in pairwise(kept):
        if moment - before != STEP:
            raise SystemExit(f"{path}: there is no value between {before} and {moment}")
    return IntensitySeries(
        zone=path.stem,
        signal=Signal.AVERAGE,
        start=kept[0][0].replace(tzinfo=UTC),
        step=STEP,
        values=np.array([value for _, value in kept]),
    )


def slots(series: IntensitySeries, year: int, first: tuple[int, int], last: tuple[int, int]) -> range:
    """Return the numbers of every third hour's slot from a month and day on to another, of *year*."""
    begin, end = (series.index(datetime(year, *day, tzinfo=UTC)) for day in (first, last))
    return range(max(begin, 14 * PER_DAY), min(end, len(series.values) - 2 * PER_DAY), 6)
