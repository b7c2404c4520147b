"""How good the forecast is, by what counts: the share of the oracle's saving that it captures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from load.carbon.measured import PER_DAY, PER_WEEK

from aegis_carbon.domain.forecast import forecast, forecasts
from aegis_carbon.domain.timeseries import IntensitySeries, Values

JOB: Final = 8
"""Slots of the job that is placed: 4 hours."""
AHEAD: Final = 2 * PER_DAY
REQUIRED: Final = {PER_DAY: 79.0, AHEAD: 67.0}
AIMED: Final = {PER_DAY: 82.0, AHEAD: 72.0}
OURS: Final = "our forecast"
_EVERY_FEW: Final = 5


@dataclass(frozen=True, slots=True)
class Captured:
    """Of one policy and one window.

    Attributes:
        saved: Percent of the emissions of starting at once.
        share: Percent of what the oracle saves.
        worse: Percent of the jobs that emit more than they would have at once.
        delay_h: Mean delay in hours.
    """

    saved: float
    share: float
    worse: float
    delay_h: float


def captured(measured: Values, starts: np.ndarray, window: int) -> Captured:
    """Judge *starts*, one for each row of *measured* (origins by slots), against now and the oracle."""
    sums = np.concatenate([np.zeros((len(measured), 1)), np.cumsum(measured[:, :window], axis=1)], axis=1)
    costs = sums[:, JOB:] - sums[:, :-JOB]
    got, now, least = costs[np.arange(len(costs)), starts], costs[:, 0], costs.min(axis=1)
    saved, possible = 1 - got.sum() / now.sum(), 1 - least.sum() / now.sum()
    worse = np.mean(got > now * 1.0001)
    return Captured(100 * saved, 100 * saved / possible, 100 * float(worse), float(starts.mean()) / 2)


def cleanest(expected: Values, window: int) -> np.ndarray:
    """Return the start of the cleanest window of each row, the earliest of equal ones."""
    sums = np.concatenate([np.zeros((len(expected), 1)), np.cumsum(expected[:, :window], axis=1)], axis=1)
    return np.asarray((sums[:, JOB:] - sums[:, :-JOB]).argmin(axis=1))


class Judged:
    """The origins of a series at which policies are judged, and what was measured after each."""

    def __init__(self, series: IntensitySeries, origins: range) -> None:
        self.series = series
        self.origins = np.array(origins)
        self.measured = series.values[self.origins[:, None] + np.arange(AHEAD)]

    def policies(self, window: int) -> Mapping[str, np.ndarray]:
        """Return where each policy starts the job."""
        expected = forecasts(self.series, self.origins, AHEAD)
        chance = np.random.default_rng(0)
        noisy = self.measured + chance.normal(0, 0.05 * self.series.values.mean(), self.measured.shape)
        return {
            "oracle (knows the future)": cleanest(self.measured, window),
            "the paper's 5 % noise on the truth": cleanest(noisy, window),
            OURS: cleanest(expected, window),
            "same slots of the day before": cleanest(self._before(), window),
            "threshold: cleanest fifth of the last week": self._threshold(20, window),
            "threshold: cleanest third of the last week": self._threshold(35, window),
            "random": chance.integers(0, window - JOB + 1, len(self.origins)),
            "now": np.zeros(len(self.origins), np.int64),
        }

    def errors(self) -> tuple[float, float]:
        """Return the mean absolute error in percent, over 24 and over 48 hours."""
        expected = forecasts(self.series, self.origins, AHEAD)
        relative = 100 * np.abs(expected - self.measured) / self.measured
        return float(relative[:, :PER_DAY].mean()), float(relative.mean())

    def coverage(self) -> Iterator[tuple[str, float, float]]:
        """Yield for some horizons the share of values inside of the band, in percent, and its mean width."""
        inside, width = [], []
        for origin, measured in zip(self.origins[::_EVERY_FEW], self.measured[::_EVERY_FEW], strict=True):
            start = self.series.start
            past = self.series.between(start, start + int(origin) * self.series.step)
            found = forecast(past, past.end + AHEAD * past.step)
            inside.append((measured >= found.low) & (measured <= found.high))
            width.append(found.high - found.low)
        for first, last in ((0, 12), (12, 48), (48, 96)):
            share, wide = (np.mean(np.array(rows)[:, first:last]) for rows in (inside, width))
            yield f"{first / 2:g} to {last / 2:g} h", 100 * float(share), float(wide)

    def _before(self) -> Values:
        ahead = np.arange(AHEAD)
        slots = self.origins[:, None] + ahead - PER_DAY - ahead // PER_DAY * PER_DAY
        return np.asarray(self.series.values[slots])

    def _threshold(self, percentile: int, window: int) -> np.ndarray:
        """Start once the last value is in the low part of the trailing week, or at the latest start."""
        values, starts = self.series.values, []
        for origin in self.origins:
            slot = int(origin)
            while slot < origin + window - JOB and values[slot - 1] > np.percentile(
                values[slot - PER_WEEK : slot], percentile
            ):
                slot += 1
            starts.append(slot - origin)
        return np.array(starts)


def table(judged: Judged, say: Callable[[str], None]) -> list[str]:
    """Print the tables; return what is required and was not reached."""
    missed = []
    for window in (PER_DAY, AHEAD):
        say(f"\n### A 4 h job within {window // 2} h, from {len(judged.origins)} origins\n")
        say("| policy | saved | of the oracle's saving | jobs made worse | mean delay |")
        say("|---|---|---|---|---|")
        policies = judged.policies(window)
        rows = {name: captured(judged.measured, starts, window) for name, starts in policies.items()}
        for name, row in rows.items():
            figures = f"{row.saved:.1f} % | {row.share:.0f} % | {row.worse:.0f} % | {row.delay_h:.1f} h"
            say(f"| {name} | {figures} |")
        ours = rows[OURS].share
        met = "met" if ours >= REQUIRED[window] else "MISSED"
        aim = "reached" if ours >= AIMED[window] else "not reached"
        say(f"\nrequired {REQUIRED[window]:g} %: {met} ({ours:.1f} %); aim {AIMED[window]:g} %: {aim}")
        missed += [f"{window // 2} h window: {ours:.1f} %"] if met == "MISSED" else []
    say("\n### Error and bands of the forecast\n")
    say("mean absolute error: {:.1f} % over 24 h, {:.1f} % over 48 h\n".format(*judged.errors()))
    say("| horizon | inside the 80 % band | mean width |\n|---|---|---|")
    for horizon, share, width in judged.coverage():
        say(f"| {horizon} | {share:.1f} % | {width:.0f} g/kWh |")
        missed += [] if 75 <= share <= 85 else [f"band {horizon}: {share:.1f} %"]
    return missed
