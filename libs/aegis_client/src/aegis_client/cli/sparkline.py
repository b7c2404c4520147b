"""Series in a terminal: one character a slot, and a line below it that marks stretches of time."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Final

_BLOCKS: Final = "▁▂▃▄▅▆▇█"
_PLAIN: Final = "_.-:=+*#"
"""For terminals that cannot print blocks."""


def levels() -> str:
    """Return characters from low to high that the terminal can print."""
    try:
        _BLOCKS.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return _PLAIN
    return _BLOCKS


def sparkline(values: Sequence[float], width: int) -> str:
    """Return *values* in at most *width* characters, the lowest and the highest at the ends of the scale.

    A NaN, which is a gap, is a space.
    """
    shown = _narrowed(values, width)
    known = [value for value in shown if not math.isnan(value)]
    if not known:
        return " " * len(shown)
    low, high = min(known), max(known)
    marks, scale = levels(), (high - low) or 1.0
    return "".join(
        " " if math.isnan(value) else marks[min(len(marks) - 1, int((value - low) / scale * len(marks)))]
        for value in shown
    )


def marks(
    start: datetime, end: datetime, stretches: Sequence[tuple[datetime, datetime]], width: int, slots: int
) -> str:
    """Return a line as long as the sparkline of *slots* from *start* to *end*, with `^` under *stretches*."""
    columns = min(width, slots)
    column = (end - start) / columns
    half = timedelta(seconds=column.total_seconds() / 2)
    middles = [start + number * column + half for number in range(columns)]
    touched = {
        int((begin - start) / column) for begin, _ in stretches if start <= begin < end
    }  # a stretch shorter than a column shows as well
    return "".join(
        "^" if number in touched or any(a <= middle < b for a, b in stretches) else " "
        for number, middle in enumerate(middles)
    ).rstrip()


def _narrowed(values: Sequence[float], width: int) -> list[float]:
    if len(values) <= width:
        return list(values)
    edges = [round(number * len(values) / width) for number in range(width + 1)]
    return [_mean(values[a:b]) for a, b in pairwise(edges)]


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan
