"""How good forecasts were: each is kept as it was given, and scored once measured values arrive."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from threading import Lock
from typing import Final

import numpy as np

from aegis_carbon.domain.intensity import Quality
from aegis_carbon.domain.known import Known
from aegis_carbon.domain.outlook import Outlook
from aegis_carbon.domain.timeseries import IntensitySeries, Values

HORIZONS: Final = ((0.0, 6.0), (6.0, 24.0), (24.0, 48.0))
"""In hours since the forecast was used."""
_KEPT: Final = 64
"""Forecasts of one zone and source that wait for measured values, or are remembered with them."""
_EVERY_HOURS: Final = 1.0
"""Between two that are kept: what is asked for more often differs little."""
_SCORED: Final = 2000
"""Scored slots of one zone, source and horizon that the figures are the mean of."""
_MOST_SERIES: Final = 64
"""Zones by sources; beyond, the oldest go."""
_LEAST_ROWS: Final = 8
_TRUE: Final = (Quality.ACTUAL, Quality.SYNTHETIC)


@dataclass(frozen=True, slots=True)
class Score:
    """Of one zone, source and horizon.

    Attributes:
        zone: Zone id.
        source: Who forecast: a provider, or `aegis`.
        horizon: For people, for example `6h-24h`.
        mape: Mean absolute error as a share of what was measured; slots of 0 g are left out.
        bias: Mean error, forecast minus measured, as a share of what was measured.
        count: Slots that were scored.
    """

    zone: str
    source: str
    horizon: str
    mape: float
    bias: float
    count: int


@dataclass(slots=True)
class _Issue:
    """A forecast as it was given, NaN where others forecast; and measured minus expected, once known."""

    expected: IntensitySeries
    errors: Values


@dataclass(slots=True)
class _Track:
    issues: deque[_Issue] = field(default_factory=lambda: deque(maxlen=_KEPT))
    scored: dict[int, deque[float]] = field(default_factory=dict)


class ForecastScores:
    """Of this process: each replica scores what it was asked for. Its memory is bounded."""

    def __init__(self) -> None:
        self._tracks: dict[tuple[str, str], _Track] = {}
        self._lock = Lock()  # metrics are collected on other threads

    def given(self, outlook: Outlook) -> None:
        """Keep what *outlook* expects, by source, unless the last one kept is younger than an hour."""
        for source in dict.fromkeys(part.source for part in outlook.parts if part.quality not in _TRUE):
            series = outlook.series
            values = np.full(len(series.values), np.nan)
            for part in outlook.parts:
                if part.source == source and part.quality not in _TRUE:
                    place = slice(series.index(part.start), series.index(part.end))
                    values[place] = series.values[place]
            longest = round(HORIZONS[-1][1] / series.hours) + 1
            with self._lock:
                self._keep((outlook.zone, source), series, values[:longest])

    def measured(self, past: Known) -> None:
        """Score what was kept against *past*, where that was measured."""
        if past.quality not in _TRUE:
            return
        with self._lock:
            for (zone, _), track in self._tracks.items():
                if zone == past.series.zone:
                    for issue in track.issues:
                        _score(track, issue, past.series)

    def errors(self, zone: str, source: str, step: timedelta, slots: int) -> Values:
        """Return measured minus expected of the forecasts of *source*: forecasts by slots, NaN if unknown.

        Too few forecasts, or slots of another length, are no rows.
        """
        with self._lock:
            track = self._tracks.get((zone, source))
            issues = list(track.issues) if track is not None else []
        rows = [_fitted(issue.errors, slots) for issue in issues if issue.expected.step == step]
        known = [row for row in rows if not np.isnan(row).all()]
        return np.array(known) if len(known) >= _LEAST_ROWS else np.zeros((0, slots))

    def scores(self) -> Iterator[Score]:
        with self._lock:
            tracks = [(key, dict(track.scored)) for key, track in self._tracks.items()]
            found = [(key, number, np.array(row)) for key, rows in tracks for number, row in rows.items()]
        for (zone, source), number, row in found:
            low, high = HORIZONS[number]
            mape, bias = float(np.abs(row).mean()), float(row.mean())
            yield Score(zone, source, f"{low:g}h-{high:g}h", mape, bias, len(row))

    def _keep(self, key: tuple[str, str], series: IntensitySeries, values: Values) -> None:
        track = self._tracks.get(key)
        if track is None:
            if len(self._tracks) >= _MOST_SERIES:
                self._tracks.pop(next(iter(self._tracks)))
            track = self._tracks[key] = _Track()
        elif track.issues:
            passed = (series.start - track.issues[-1].expected.start) / series.step * series.hours
            if passed < _EVERY_HOURS:
                return
        expected = IntensitySeries(
            zone=series.zone,
            signal=series.signal,
            start=series.start,
            step=series.step,
            values=values,
            day=series.day,
        )
        track.issues.append(_Issue(expected, np.full(len(values), np.nan)))


def _score(track: _Track, issue: _Issue, truth: IntensitySeries) -> None:
    expected = issue.expected
    if truth.step != expected.step or (truth.start - expected.start) % expected.step:
        return
    measured = truth.between(expected.start, expected.end).values
    new = ~np.isnan(measured) & ~np.isnan(expected.values) & np.isnan(issue.errors)
    issue.errors[new] = measured[new] - expected.values[new]
    hours = np.arange(len(measured)) * expected.hours
    for number, (low, high) in enumerate(HORIZONS):
        chosen = new & (hours >= low) & (hours < high) & (measured > 0)
        if chosen.any():
            row = track.scored.setdefault(number, deque(maxlen=_SCORED))
            row.extend((-issue.errors[chosen] / measured[chosen]).tolist())


def _fitted(errors: Values, slots: int) -> Values:
    row = np.full(slots, np.nan)
    row[: min(slots, len(errors))] = errors[:slots]
    return row
