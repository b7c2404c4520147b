"""The carbon service without its transport: zones, intensities and decisions."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime
from typing import Final

import numpy as np

from aegis_carbon.domain.catalog import Zone, ZoneCatalog
from aegis_carbon.domain.errors import InfeasibleJob, NoIntensityData
from aegis_carbon.domain.intensity import Intensity
from aegis_carbon.domain.lookup import IntensityLookup
from aegis_carbon.domain.outlook import Outlook
from aegis_carbon.domain.outlooks import OutlookLookup
from aegis_carbon.domain.planning import JobRequest, Planned, Planning
from aegis_carbon.domain.providers import Observer
from aegis_carbon.domain.rules import BY_ZONE, ForecastRule, PercentileRule, Rule, ThresholdRule
from aegis_carbon.domain.schedule import Decision, OnMissing, Reason, Verdict, Window, decide, until
from aegis_common.clock import Clock

_WEEK_DAYS: Final = 7
_AHEAD_DAYS: Final = 2
_OF_A_PERCENTILE: Final = {
    Reason.BELOW_THRESHOLD: Reason.BELOW_PERCENTILE,
    Reason.ABOVE_THRESHOLD: Reason.ABOVE_PERCENTILE,
}


class CarbonAdvisor:
    """Answers for one set of zones."""

    def __init__(
        self,
        catalog: ZoneCatalog,
        lookup: IntensityLookup,
        outlooks: OutlookLookup,
        planning: Planning,
        *,
        clock: Clock,
        observer: Observer,
    ) -> None:
        self._catalog = catalog
        self._lookup = lookup
        self._outlooks = outlooks
        self._planning = planning
        self._clock = clock
        self._observer = observer

    def zones(self) -> list[Zone]:
        """Return every zone, ordered by id."""
        return self._catalog.all()

    async def intensity(self, zone: str, *, within: float) -> Intensity:
        """Return the present intensity of *zone* (id, or empty for the default), in at most *within* seconds.

        Raises:
            UnknownZone: No provider covers it.
            NoIntensityData: There is no value, fresh or stale.
        """
        return await self._lookup.current(self._catalog.get(zone), within=within)

    async def check(
        self,
        zone: str,
        *,
        within: float,
        rule: Rule = BY_ZONE,
        on_missing: OnMissing,
        look_ahead: bool = True,
    ) -> Decision:
        """Decide whether work in *zone* (id, or empty for the default) should start now.

        Args:
            zone: Zone id, or empty for the default one.
            within: Seconds that the caller can wait.
            rule: By what to decide.
            on_missing: What to decide without data.
            look_ahead: Whether an answer to wait names the next good window; it may need more questions.

        Raises:
            UnknownZone: No provider covers the zone.
            InvalidArgument: The deadline of a forecast rule is further ahead than an outlook reaches.
        """
        found = self._catalog.get(zone)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + within
        if isinstance(rule, ThresholdRule):
            decision = await self._by_threshold(found, rule, within, on_missing)
        elif isinstance(rule, PercentileRule):
            decision = await self._by_percentile(found, rule, within, on_missing)
        else:
            decision = await self._by_forecast(found, rule, within, on_missing)
        # Only who waits is helped by a window, so nobody else waits for the forecast that it takes.
        if look_ahead and not decision and not isinstance(rule, ForecastRule):
            left = max(0.0, deadline - loop.time())
            decision = replace(decision, window=await self._next_window(found, decision, left))
        self._observer.decided(decision)
        return decision

    async def _current(self, zone: Zone, within: float) -> Intensity | None:
        try:
            return await self._lookup.current(zone, within=within)
        except NoIntensityData:
            return None

    async def _next_window(self, zone: Zone, decision: Decision, within: float) -> Window | None:
        until = self._clock() + _AHEAD_DAYS * self._outlooks.day(zone)
        try:
            ahead = await self._outlooks.get(zone, until=until, within=within)
        except NoIntensityData:
            return None
        return _next_window(ahead, decision.threshold_g_per_kwh, decision.decided_at)

    async def _by_threshold(
        self, zone: Zone, rule: ThresholdRule, within: float, on_missing: OnMissing
    ) -> Decision:
        limit = zone.threshold_g_per_kwh if rule.max_g_per_kwh is None else rule.max_g_per_kwh
        current = await self._current(zone, within)
        return self._decided(zone, current, limit, on_missing)

    async def _by_percentile(
        self, zone: Zone, rule: PercentileRule, within: float, on_missing: OnMissing
    ) -> Decision:
        current, past = await asyncio.gather(
            self._current(zone, within), self._outlooks.past(zone, within=within)
        )
        now = self._clock()
        week = _WEEK_DAYS * self._outlooks.day(zone)
        values = np.array([]) if past is None else past.series.between(now - week, now).values
        known = values[~np.isnan(values)]
        if not len(known):
            return self._decided(zone, None, 0.0, on_missing)
        limit = float(np.percentile(known, rule.percentile))
        decision = self._decided(zone, current, limit, on_missing)
        return replace(decision, reason=_OF_A_PERCENTILE.get(decision.reason, decision.reason))

    def _decided(
        self, zone: Zone, current: Intensity | None, limit: float, on_missing: OnMissing
    ) -> Decision:
        return decide(zone.id, current, threshold_g_per_kwh=limit, on_missing=on_missing, now=self._clock())

    async def _planned(self, request: JobRequest, within: float) -> Planned | InfeasibleJob | NoIntensityData:
        try:
            return await self._planning.plan(request, within=within)
        except (InfeasibleJob, NoIntensityData) as error:
            return error

    async def _by_forecast(
        self, zone: Zone, rule: ForecastRule, within: float, on_missing: OnMissing
    ) -> Decision:
        now = self._clock()
        request = JobRequest(
            zones=(zone.id,), duration=rule.duration, deadline=rule.deadline, max_wait=rule.max_wait
        )
        current, planned = await asyncio.gather(self._current(zone, within), self._planned(request, within))
        if isinstance(planned, InfeasibleJob):
            # It can only be late: the sooner the better.
            return Decision(Verdict.RUN_NOW, Reason.LATEST_START, zone.id, 0.0, now, current)
        if isinstance(planned, NoIntensityData):
            return self._decided(zone, None, 0.0, on_missing)
        span = planned.plan.spans[0]
        if span.start <= now or planned.plan.saving < rule.min_saving:
            return Decision(Verdict.RUN_NOW, Reason.NO_BETTER_WINDOW, zone.id, 0.0, now, current)
        window = Window(span.start, span.end, planned.plan.g_per_kwh)
        wait = min(until(span.start, now), planned.job.latest_start - now)
        return Decision(Verdict.WAIT, Reason.BETTER_WINDOW, zone.id, 0.0, now, current, wait, window)


def _next_window(ahead: Outlook, limit: float, now: datetime) -> Window | None:
    """Return the first run of slots after the present one that are at or below *limit*."""
    values, series = ahead.series.values, ahead.series
    good = values <= limit
    good[: series.index(now) + 1] = False
    if not good.any():
        return None
    first = int(good.argmax())
    rest = ~good[first:]
    last = first + (int(rest.argmax()) if rest.any() else len(rest))
    start, end = (series.start + number * series.step for number in (first, last))
    return Window(start, end, float(values[first:last].mean()))
