"""The cleanest contiguous window for a job, in continuous time: exact, for one job or for thousands at once.

The cost of starting at a moment is the integral of the intensity over the run, which is piecewise linear in
that moment. So it is least where an edge of the run meets an edge of a slot, or at an end of what is allowed:
few candidates, each answered by one prefix sum. For many jobs, the least cost in a range of candidates comes
from a sparse table (Bender and Farach-Colton, "The LCA problem revisited", 2000), one for each duration.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aegis_carbon.domain.timeseries import Values

Indices = NDArray[np.int64]

_MOST_TABLES: Final = 256
GRAIN: Final = 1e6
"""Costs are counted in whole micrograms, whose sums are exact: equal costs are equal."""


class Costs:
    """Costs of runs over a row of slots; times are in slots since the start of the row.

    Args:
        values: Intensity of each slot; NaN where it is not known. A run over such a slot costs infinity.
    """

    def __init__(self, values: Values) -> None:
        known = ~np.isnan(values)
        self.slots: Final = len(values)
        self._edges = np.arange(self.slots + 1, dtype=np.float64)
        self._sum = _prefix(np.round(np.where(known, values, 0.0) * GRAIN))
        self._unknown = None if known.all() else _prefix(~known)
        self._tables: dict[float, _Tables] = {}

    def runs(self, start: ArrayLike, duration: ArrayLike) -> Values:
        """Return the cost of each run, in gCO2e/kWh times slots; infinity where it leaves what is known."""
        begin: Values = np.asarray(start, np.float64)
        end: Values = np.asarray(begin + np.asarray(duration, np.float64))
        cost = self._between(self._sum, begin, end)
        if self._unknown is not None:
            cost = np.where(self._between(self._unknown, begin, end) > 0, np.inf, cost)
        outside = (begin < 0) | (end > self.slots)
        return np.where(outside, np.inf, np.round(cost) / GRAIN)

    def best(self, earliest: float, latest: float, duration: float) -> float:
        """Return the start of the cleanest run: the earliest of equal ones, *earliest* if all are unknown.

        Args:
            earliest: First moment at which the run may start.
            latest: Last one, not before *earliest*; the run that starts then ends within the row.
            duration: Length of the run.
        """
        first, last, length = int(earliest), int(latest), int(duration)
        if first == earliest and last == latest and length == duration and self._unknown is None:
            prefix = self._sum
            return first + float(
                (prefix[first + length : last + length + 1] - prefix[first : last + 1]).argmin()
            )
        heads = np.arange(np.ceil(earliest), np.floor(latest) + 1)
        starts = np.concatenate(([earliest], heads))
        if duration % 1:
            tails = np.arange(np.ceil(earliest + duration), np.floor(latest + duration) + 1) - duration
            # An end less a duration may miss its start by a rounding.
            starts = np.sort(np.clip(np.concatenate((starts, tails, [latest])), earliest, latest))
        elif latest % 1:
            starts = np.append(starts, latest)
        return float(starts[self.runs(starts, duration).argmin()])

    def shaped(self, start: ArrayLike, durations: Values, weights: Values) -> Values:
        """Return the cost of runs, one for each start, whose parts of given durations weigh differently."""
        ends = np.cumsum(durations)
        starts = np.atleast_1d(np.asarray(start, np.float64))[:, None] + (ends - durations)
        # An unknown slot counts even in a part that weighs nothing: infinity times 0 is no number.
        parts = self.runs(starts, durations)
        return np.asarray(np.where(np.isinf(parts).any(axis=1), np.inf, np.nan_to_num(parts) @ weights))

    def best_shaped(self, earliest: float, latest: float, durations: Values, weights: Values) -> float:
        """Return the start of the cleanest such run, as `best` does."""
        edges = np.concatenate(([0.0], np.cumsum(durations)))
        first, last = np.ceil(earliest), np.floor(latest + edges[-1])
        meeting = (np.arange(first, last + 1)[:, None] - edges).ravel()
        inside = meeting[(meeting >= earliest) & (meeting <= latest)]
        starts = np.unique(np.concatenate(([earliest, latest], inside)))
        return float(starts[np.round(self.shaped(starts, durations, weights), 9).argmin()])

    def best_of_many(self, earliest: Values, latest: Values, duration: Values) -> Values:
        """Return what `best` returns for each job; the three arrays have one entry a job."""
        found = np.empty(len(earliest))
        order = np.argsort(duration, kind="stable")
        cuts = np.flatnonzero(np.diff(duration[order])) + 1
        for group in np.split(order, cuts) if len(order) else []:
            length = float(duration[group[0]])
            found[group] = self._best_of_equal(earliest[group], latest[group], length)
        return found

    def _best_of_equal(self, earliest: Values, latest: Values, duration: float) -> Values:
        tables = self._tables.get(duration)
        if tables is None:
            if len(self._tables) >= _MOST_TABLES:
                self._tables.pop(next(iter(self._tables)))
            tables = self._tables[duration] = _Tables(self, duration)
        if tables.on_edges and not ((earliest % 1).any() or (latest % 1).any()):
            return tables.best(earliest, latest)[0]
        starts = np.stack([earliest, *tables.best(earliest, latest), latest], axis=-1)
        costs = self.runs(starts, duration)
        costs = np.where(np.isnan(starts), np.inf, costs)
        # Of equal costs the earlier start: the first entry is the earliest, the others have no order.
        least = costs == costs.min(axis=-1, keepdims=True)
        return np.asarray(np.clip(np.where(least, starts, np.inf).min(axis=-1), earliest, latest))

    def _between(self, prefix: Values, start: Values, end: Values) -> Values:
        return np.interp(end, self._edges, prefix) - np.interp(start, self._edges, prefix)


class _Tables:
    """Where in any range of slot edges a run of one duration is cheapest."""

    def __init__(self, costs: Costs, duration: float) -> None:
        self._duration = duration
        self.on_edges: Final = not duration % 1
        edges = np.arange(costs.slots + 1, dtype=np.float64)
        self._heads = _Table(costs.runs(edges, duration))
        self._tails = _Table(costs.runs(edges - duration, duration)) if not self.on_edges else None

    def best(self, earliest: Values, latest: Values) -> list[Values]:
        """Return starts at slot edges, and those that end at one; NaN where there is none in the range."""
        found = [self._heads.least(np.ceil(earliest), np.floor(latest))]
        if self._tails is not None:
            ends = self._tails.least(np.ceil(earliest + self._duration), np.floor(latest + self._duration))
            found.append(ends - self._duration)
        return found


class _Table:
    """Answers which of a range of costs is least, the first of equal ones."""

    def __init__(self, costs: Values) -> None:
        self._costs = costs
        self._levels = [np.arange(len(costs))]
        width = 1
        while 2 * width <= len(costs):
            before = self._levels[-1]
            left, right = before[: len(costs) - 2 * width + 1], before[width:]
            right = right[: len(left)]
            self._levels.append(np.where(costs[right] < costs[left], right, left))
            width *= 2

    def least(self, first: Values, last: Values) -> Values:
        """Return the place of the least cost from *first* to *last*, inclusive; NaN for an empty range."""
        low = np.clip(first, 0, len(self._costs) - 1).astype(np.int64)
        high = np.clip(last, 0, len(self._costs) - 1).astype(np.int64)
        found = np.full(len(low), np.nan)
        some = (first <= last) & (low <= high)
        count = np.where(some, high - low + 1, 1)
        level = np.frexp(count.astype(np.float64))[1] - 1
        for number in np.unique(level[some]):
            chosen = np.flatnonzero(some & (level == number))
            table = self._levels[number]
            left, right = table[low[chosen]], table[high[chosen] + 1 - (1 << number)]
            found[chosen] = np.where(self._costs[right] < self._costs[left], right, left)
        return found


def _prefix(values: NDArray[np.float64] | NDArray[np.bool_]) -> Values:
    return np.concatenate(([0.0], np.cumsum(values, dtype=np.float64)))
