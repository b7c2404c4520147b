"""The cleanest times for a job that may be suspended and resumed.

Without limits it takes the cleanest slots. With a least length of a stretch, a most number of interruptions
or a cost of resuming, a dynamic programme over short cells of time finds the best schedule of that grain.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from aegis_carbon.domain.timeseries import Values
from aegis_carbon.domain.windows import GRAIN, Costs

MOST_CELLS: Final = 600
"""Cells of a grid; a longer span has coarser ones."""
_FINEST: Final = 6
_ROUNDING: Final = 1e-9
_CLOSED: Final = 1e14
"""Cost of a cell in which the job cannot run, in micrograms: above any schedule that has none of them."""
_WORTH_IT: Final = 1e-4
"""Least gain, in gCO2e/kWh times slots, for which a job is interrupted."""

Number = NDArray[np.float64] | NDArray[np.int64]
Stretch = tuple[float, float]
"""Start and end, in slots since the start of the row."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What an interruptible job asks for; times in slots.

    Attributes:
        least: Shortest stretch between start or resume and the next stop.
        interruptions: Most interruptions; None is any number.
        overhead: Time of each resume in which the job runs without getting on.
    """

    least: float = 0.0
    interruptions: int | None = None
    overhead: float = 0.0

    @property
    def none(self) -> bool:
        return not self.least and not self.overhead and self.interruptions is None


def cleanest_stretches(
    costs: Costs, values: Values, earliest: float, deadline: float, work: float, limits: Limits
) -> list[Stretch]:
    """Return when the job runs, in order of time; together *work*, and the overhead of each resume.

    Args:
        costs: Of the row.
        values: The row: intensity of each slot, NaN where it is not known.
        earliest: First moment at which it may run.
        deadline: Moment at which it must have ended; at least *work* later, and within the row.
        work: Time that it needs.
        limits: What interrupting it costs.
    """
    start = costs.best(earliest, deadline - work, work)
    whole = [(start, start + work)]
    if limits.none:
        return _cleanest_pieces(values, earliest, deadline, work)
    if limits.interruptions == 0:
        return whole
    # Cells begin at once, so that the job may, or fit the slots, so that no cell is half clean.
    grids = [_Grid.of(earliest, deadline, work, limits, fitted=fitted) for fitted in (False, True)]
    solved = [grid.solved(costs) for grid in grids if grid is not None]
    split = min((item for item in solved if item), key=lambda item: total(costs, item), default=whole)
    return split if total(costs, split) < total(costs, whole) - _WORTH_IT else whole


def total(costs: Costs, stretches: Sequence[Stretch]) -> float:
    """Return what the stretches cost together, in gCO2e/kWh times slots."""
    starts, ends = np.array(stretches).T
    return float(costs.runs(starts, ends - starts).sum())


def _cleanest_pieces(values: Values, earliest: float, deadline: float, work: float) -> list[Stretch]:
    edges = np.unique(
        np.concatenate(([earliest, deadline], np.arange(np.ceil(earliest), np.floor(deadline) + 1)))
    )
    starts, lengths = edges[:-1], np.diff(edges)
    cost = np.nan_to_num(values[np.floor(starts).astype(np.int64)], nan=np.inf)
    return _joined(cheapest(starts, lengths, cost, work))


def cheapest(starts: Number, lengths: Number, cost: Values, work: float) -> list[Stretch]:
    """Return the cheapest pieces that together are *work*, in the order of time; of equal ones the earliest.

    Args:
        starts: Start of each piece, in the order of time; pieces do not overlap.
        lengths: Length of each; together at least *work*.
        cost: Of each per time.
        work: Time that is needed, in the unit of the pieces. Whole numbers stay whole.
    """
    order = np.argsort(cost, kind="stable")
    used = np.minimum(np.cumsum(lengths[order]), work)
    taken = np.zeros_like(used)
    taken[order] = np.diff(used, prepend=used[:1] * 0)
    ends = starts + lengths
    pieces = []
    for number in np.flatnonzero(taken > 0).tolist():
        start, share = starts[number].item(), taken[number].item()
        # A piece that is not needed whole joins the stretch after it, if there is one.
        after = number + 1
        if share < lengths[number] and after < len(taken) and taken[after] and starts[after] == ends[number]:
            start = starts[after].item() - share
        pieces.append((start, start + share))
    return pieces


def _joined(pieces: list[Stretch]) -> list[Stretch]:
    joined = pieces[:1]
    for (_, before), piece in pairwise(pieces):
        if piece[0] - before < _ROUNDING:
            joined[-1] = (joined[-1][0], piece[1])
        else:
            joined.append(piece)
    return joined


@dataclass(frozen=True, slots=True)
class _Grid:
    """The dynamic programme; all in cells since *origin*.

    State after each cell: stretches begun (at most `most`; the last number stands for "more" where there is
    no limit), and cells of work done; either running or not.
    """

    origin: float
    cell: float
    cells: int
    work: int
    least: int
    overhead: int
    most: int
    bounded: bool

    @classmethod
    def of(
        cls, earliest: float, deadline: float, work: float, limits: Limits, *, fitted: bool
    ) -> _Grid | None:
        """Return the grid, or None where its grain is too coarse for the time that there is."""
        cell = 1 / max(1, min(_FINEST, int(MOST_CELLS / (deadline - earliest))))
        cell *= max(1, math.ceil((deadline - earliest) / MOST_CELLS))
        origin = math.ceil(earliest / cell - _ROUNDING) * cell if fitted else earliest
        cells = math.floor((deadline - origin) / cell + _ROUNDING)
        need = math.ceil(work / cell - _ROUNDING)
        if need > cells:
            return None
        bounded = limits.interruptions is not None
        most = min(limits.interruptions or 0, need) + 1 if bounded else 2
        least = min(need, max(1, math.ceil(limits.least / cell - _ROUNDING)))
        overhead = math.ceil(limits.overhead / cell - _ROUNDING)
        return cls(origin, cell, cells, need, least, overhead, most, bounded)

    def solved(self, costs: Costs) -> list[Stretch] | None:
        price = costs.runs(self.origin + np.arange(self.cells) * self.cell, self.cell)
        closed = np.isinf(price)
        # Whole micrograms add up exactly, so of equal schedules the one with fewer stops wins.
        found = _Programme(self, np.where(closed, _CLOSED, np.round(price * GRAIN))).stretches()
        return found if found and np.isfinite(total(costs, found)) else None


class _Programme:
    def __init__(self, grid: _Grid, price: Values) -> None:
        self._grid = grid
        self._sum = np.concatenate(([0.0], np.cumsum(price)))
        shape = (grid.cells + 1, grid.most + 1, grid.work + 1)
        self._idle = np.full(shape, np.inf)
        self._idle[0, 0, 0] = 0.0
        self._began: NDArray[np.bool_] = np.zeros(shape, np.bool_)
        self._stopped: NDArray[np.bool_] = np.zeros(shape, np.bool_)
        self._fill(price)

    def _fill(self, price: Values) -> None:
        running = np.full(self._idle.shape[1:], np.inf)
        for cell in range(1, self._grid.cells + 1):
            on = np.full_like(running, np.inf)
            on[:, 1:] = running[:, :-1] + price[cell - 1]
            begun = self._begun(cell)
            self._began[cell] = begun < on
            running = np.minimum(on, begun)
            self._stopped[cell] = running < self._idle[cell - 1]
            self._idle[cell] = np.minimum(self._idle[cell - 1], running)

    def _begun(self, cell: int) -> Values:
        """Return the costs of states whose last stretch has just reached its least length."""
        grid = self._grid
        begun = np.full(self._idle.shape[1:], np.inf)
        for stretch in range(1, grid.most + 1):
            for before in self._befores(stretch):
                length, gain = self._first_leg(before)
                if length <= cell:
                    spent = self._sum[cell] - self._sum[cell - length]
                    came = self._idle[cell - length, before, : grid.work + 1 - gain] + spent
                    begun[stretch, gain:] = np.minimum(begun[stretch, gain:], came)
        return begun

    def _befores(self, stretch: int) -> tuple[int, ...]:
        """Return how many stretches there may have been before the one numbered *stretch* began."""
        grid = self._grid
        return (stretch - 1, stretch) if not grid.bounded and stretch == grid.most else (stretch - 1,)

    def _first_leg(self, before: int) -> tuple[int, int]:
        """Return the cells of the shortest stretch after *before* others, and the work done in it."""
        overhead = self._grid.overhead if before else 0
        length = max(self._grid.least, overhead + 1)
        return length, length - overhead

    def stretches(self) -> list[Stretch] | None:
        grid, done = self._grid, self._grid.work
        last = self._idle[grid.cells, :, done]
        count, cell = int(last.argmin()), grid.cells
        if not np.isfinite(last[count]):
            return None
        found: list[Stretch] = []
        while done:
            while not self._stopped[cell, count, done]:
                cell -= 1
            end = cell
            while not self._began[cell, count, done]:
                cell, done = cell - 1, done - 1
            cell, count, done = self._before(cell, count, done)
            found.append((grid.origin + cell * grid.cell, grid.origin + end * grid.cell))
        return found[::-1]

    def _before(self, cell: int, count: int, done: int) -> tuple[int, int, int]:
        """Return the state from which the stretch at hand began."""

        def came(before: int) -> float:
            length, gain = self._first_leg(before)
            if length > cell or gain > done:
                return math.inf
            return float(
                self._idle[cell - length, before, done - gain] + self._sum[cell] - self._sum[cell - length]
            )

        before = min(self._befores(count), key=came)
        length, gain = self._first_leg(before)
        return cell - length, before, done - gain
