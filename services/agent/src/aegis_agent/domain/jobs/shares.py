"""Who is served next: the higher class first, and a share for the lower ones so that nobody starves."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Final

from aegis_agent.domain.call import Priority

_TURNS: Final = 10
_OWN_TURN: Final = {4: Priority.NORMAL, 9: Priority.LOW}
"""Turns of ten in which a lower class comes first."""
_ORDER: Final = (Priority.HIGH, Priority.NORMAL, Priority.LOW)


def first_class(turn: int) -> Priority:
    """Return the class that is asked first at the *turn*-th start, from 0."""
    return _OWN_TURN.get(turn % _TURNS, Priority.HIGH)


def order(turn: int) -> Sequence[Priority]:
    """Return the classes in the order in which they are asked at the *turn*-th start."""
    first = first_class(turn)
    return (first, *(item for item in _ORDER if item is not first))


def plan(turn: int, slots: int) -> list[tuple[Sequence[Priority], int]]:
    """Return for the next *slots* starts, in order, which classes to ask and for how many jobs."""
    turns = (order(turn + number) for number in range(slots))
    return [(classes, len(list(group))) for classes, group in groupby(turns)]
