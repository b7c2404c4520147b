"""Where in time a reservation runs: by the forecast, or by `on_missing` where there is none."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from aegis_carbon.domain.errors import NoIntensityData, UnknownZone
from aegis_carbon.domain.job import Plan, Span
from aegis_carbon.domain.outlook import Outlook
from aegis_carbon.domain.planner import plan, plan_of
from aegis_carbon.domain.planning import Planning
from aegis_carbon.domain.reservations import machine
from aegis_carbon.domain.reservations.pools import Pool
from aegis_carbon.domain.reservations.reservation import OnMissing, Reservation

LEAST_GAIN: Final = 0.03
"""Share of what it emits by which a new plan has to be better: forecasts differ a little each time."""
MOST_WAIT: Final = timedelta(seconds=5)
"""Longest wait for what is expected of the grid."""
_log = logging.getLogger(__name__)


class Grid:
    """What is expected of the zones of a reservation."""

    def __init__(self, planning: Planning) -> None:
        self._planning = planning

    async def outlooks(self, item: Reservation, *, now: datetime, within: float) -> list[Outlook]:
        """Return what is expected of its zones; nothing where it is not known of all of them.

        Args:
            item: The reservation. Work that has begun stays in its zone.
            now: Present time.
            within: Seconds that the caller can wait; work that has to start sooner does not wait for it.
        """
        slack = max(timedelta(0), item.latest_start - max(now, item.earliest)) / 2
        wait = min(within, MOST_WAIT.total_seconds(), slack.total_seconds())
        zones = (item.plan.zone,) if item.started and item.plan else item.zones
        try:
            return await self._planning.expected(zones, until=item.deadline, within=wait, since=now)
        except (NoIntensityData, UnknownZone) as error:
            _log.info("nothing is known of the grid for reservation %s: %s", item.member, error.message)
            return []


def placed(item: Reservation, outlooks: Sequence[Outlook], now: datetime) -> Reservation:
    """Return it with spans for the work that is left, and their plan where the grid is known.

    Raises:
        InfeasibleJob: It cannot end by its deadline.
        InvalidArgument: Its zones have different signals.
    """
    if not outlooks:
        return replace(item, spans=(without_data(item, now),), plan=None, mark="")
    found = plan(outlooks, item.job(now))
    return replace(item, spans=found.spans, plan=found, mark=mark_of(outlooks))


def replanned(
    item: Reservation, outlooks: Sequence[Outlook], pool: Pool | None, *, now: datetime
) -> Reservation:
    """Return work that waits by a new forecast: moved, if that gains enough.

    Args:
        item: The reservation; nothing is due.
        outlooks: Of the zones in which it may run.
        pool: Its pool, with all that is open; None where it has none.
        now: Present time.

    Raises:
        InvalidArgument: Its zones have different signals.
    """
    job, mark = item.job(now), mark_of(outlooks)
    here = plan_of(outlooks, job, [item.spans] * len(outlooks))
    if pool is None:
        best: Plan | None = plan(outlooks, job)
    else:
        placement = pool.replace(item.member, outlooks)
        best = placement.plan if placement else None
    known = item.plan is not None and here is not None
    if best is None or (known and here and best.g_per_kwh > here.g_per_kwh * (1 - LEAST_GAIN)):
        return replace(item, plan=here or item.plan, mark=mark)
    return machine.moved(item, best, mark=mark, now=now)


def without_data(item: Reservation, now: datetime) -> Span:
    """Return when it runs while nothing is known of the grid."""
    soonest, latest = max(now, item.earliest), item.latest_start
    wanted = {
        OnMissing.RUN_NOW: soonest,
        OnMissing.RUN_AT_LATEST_START: latest,
        OnMissing.HOLD: item.created + item.max_hold,
    }[item.on_missing]
    start = max(soonest, min(wanted, latest))
    return Span(start, start + item.left)


def mark_of(outlooks: Sequence[Outlook]) -> str:
    """Return what tells these forecasts from others."""
    return hashlib.sha256(" ".join(outlook.mark for outlook in outlooks).encode()).hexdigest()[:16]
