"""Who is served next.

The tenant that holds the fewest slots by its weight; among those, the one that has had the least slot time by
weight. One that comes anew starts level with who was served last: nobody saves up. So a tenant that fills its
queue, or whose jobs are long, leaves the others their share.

Of a tenant the higher class first, with a share for the lower ones so that nothing starves; inside a class
what became ready first, of the tools that have room.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from aegis_agent.domain.call import Priority

_TURNS: Final = 10
_OWN_TURN: Final = {4: Priority.NORMAL, 9: Priority.LOW}
"""Turns of ten in which a lower class comes first."""
_ORDER: Final = (Priority.HIGH, Priority.NORMAL, Priority.LOW)


def order(turn: int) -> Sequence[Priority]:
    """Return the classes in the order in which they are asked at a tenant's *turn*-th start, from 0."""
    first = _OWN_TURN.get(turn % _TURNS, Priority.HIGH)
    return (first, *(item for item in _ORDER if item is not first))


TURNS: Final = tuple(order(turn) for turn in range(_TURNS))
"""The orders of all turns, after which they begin again."""
