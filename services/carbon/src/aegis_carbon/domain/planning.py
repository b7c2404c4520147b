"""Forecasts and plans for one set of zones."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from aegis_carbon.domain.catalog import Zone, ZoneCatalog
from aegis_carbon.domain.job import Interruption, Job, Plan, PowerStep
from aegis_carbon.domain.known import Known
from aegis_carbon.domain.outlook import Outlook
from aegis_carbon.domain.outlooks import OutlookLookup
from aegis_carbon.domain.planner import plan, plans
from aegis_common.clock import Clock
from aegis_common.errors import AegisError, InvalidArgument


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRequest:
    """A job as a caller describes it.

    Attributes:
        zones: Ids of the zones in which it may run, its home first; empty is the default zone.
        duration: Time that it runs.
        deadline: Moment by which it has ended; None where `max_wait` counts.
        max_wait: Longest time that its start may wait; None is a day.
        earliest: First moment at which it may run; None, and what has passed, is now.
        interruption: How it may be interrupted; None if it may not.
        power: Its power over the run.
    """

    duration: timedelta
    zones: tuple[str, ...] = ()
    deadline: datetime | None = None
    max_wait: timedelta | None = None
    earliest: datetime | None = None
    interruption: Interruption | None = None
    power: tuple[PowerStep, ...] = ()


@dataclass(frozen=True, slots=True)
class Planned:
    """A job with its plan."""

    job: Job
    plan: Plan


class Resolved(NamedTuple):
    """A job with its zones, home first."""

    zones: tuple[Zone, ...]
    job: Job


class Planning:
    """Answers from the outlooks of the zones."""

    def __init__(self, catalog: ZoneCatalog, outlooks: OutlookLookup, *, clock: Clock) -> None:
        self._catalog = catalog
        self._outlooks = outlooks
        self._clock = clock

    async def forecast(self, zone: str, *, horizon: timedelta | None, within: float) -> Outlook:
        """Return what is expected of *zone* (id, or empty for the default).

        Args:
            zone: Zone id.
            horizon: How far to look ahead; None is two days.
            within: Seconds that the caller can wait.

        Raises:
            UnknownZone: No provider covers it.
            NoIntensityData: No provider has a forecast, nor enough history to make one.
            InvalidArgument: *horizon* is further than an outlook reaches.
        """
        found = self._catalog.get(zone)
        until = self._clock() + (horizon or 2 * self._outlooks.day(found))
        self._check_reach([found], until, "horizon")
        outlook = await self._outlooks.get(found, until=until, within=within)
        return outlook.until(until)

    async def last_day(self, zone: str, *, within: float) -> Known | None:
        """Return what was measured of *zone* in the last day, with its gaps; None if nothing was.

        Raises:
            UnknownZone: No provider covers it.
        """
        found = self._catalog.get(zone)
        past = await self._outlooks.past(found, within=within)
        now = self._clock()
        return None if past is None else past.between(now - self._outlooks.day(found), now)

    async def plan(self, request: JobRequest, *, within: float) -> Planned:
        """Return the cleanest plan for a job.

        Raises:
            UnknownZone: No provider covers a zone.
            NoIntensityData: A zone has no forecast.
            InfeasibleJob: The job cannot end by its deadline.
            InvalidArgument: The job contradicts itself, or its deadline is too far ahead.
        """
        now = self._clock()
        zones, job = self.resolved(request, now)
        ids = [zone.id for zone in zones]
        outlooks = await self.expected(ids, until=job.deadline, within=within, since=now)
        return Planned(job, await asyncio.to_thread(plan, outlooks, job))

    async def expected(
        self, zones: Sequence[str], *, until: datetime, within: float, since: datetime
    ) -> list[Outlook]:
        """Return what is expected of each of *zones* from *since* to *until* at least.

        Raises:
            UnknownZone: No provider covers a zone.
            NoIntensityData: A zone has no forecast.
        """
        found = [self._catalog.get(zone) for zone in zones]
        rows = [self._outlooks.get(zone, until=until, within=within, since=since) for zone in found]
        return await asyncio.gather(*rows)

    async def plans(self, requests: Sequence[JobRequest], *, within: float) -> list[Planned | AegisError]:
        """Return a plan for each job, or why there is none, in the order of *requests*."""
        now = self._clock()
        outcomes = [self._tried(request, now) for request in requests]
        good = [item for item in outcomes if not isinstance(item, AegisError)]
        outlooks = await self.rows(good, within, now)
        ready: dict[int, Resolved] = {}
        found: dict[int, Planned | AegisError] = {}
        for number, item in enumerate(outcomes):
            if isinstance(item, AegisError):
                found[number] = item
            elif missing := [row for zone in item.zones if isinstance(row := outlooks[zone.id], AegisError)]:
                found[number] = missing[0]
            else:
                ready[number] = item
        known = {zone: row for zone, row in outlooks.items() if isinstance(row, Outlook)}
        jobs = [(tuple(zone.id for zone in item.zones), item.job) for item in ready.values()]
        # Off the loop: thousands of them take some ten milliseconds.
        made = await asyncio.to_thread(plans, known, jobs)
        for (number, item), outcome in zip(ready.items(), made, strict=True):
            found[number] = Planned(item.job, outcome) if isinstance(outcome, Plan) else outcome
        return [found[number] for number in range(len(requests))]

    async def rows(
        self, items: Sequence[Resolved], within: float, now: datetime
    ) -> dict[str, Outlook | AegisError]:
        """Return for each zone that is wanted what is expected there, as far ahead as it is wanted.

        Args:
            items: The jobs that want to know.
            within: Seconds that the caller can wait.
            now: When the caller looked at the clock: the outlooks begin then.
        """
        wanted: dict[str, tuple[Zone, datetime]] = {}
        for item in items:
            for zone in item.zones:
                _, until = wanted.get(zone.id, (zone, item.job.deadline))
                wanted[zone.id] = (zone, max(until, item.job.deadline))

        async def row(zone: Zone, until: datetime) -> Outlook | AegisError:
            try:
                return await self._outlooks.get(zone, until=until, within=within, since=now)
            except AegisError as error:
                return error

        rows = await asyncio.gather(*(row(zone, until) for zone, until in wanted.values()))
        return dict(zip(wanted, rows, strict=True))

    def _tried(self, request: JobRequest, now: datetime) -> Resolved | AegisError:
        try:
            return self.resolved(request, now)
        except AegisError as error:
            return error

    def resolved(self, request: JobRequest, now: datetime) -> Resolved:
        """Return the job with its zones and moments, checked.

        Raises:
            UnknownZone: No provider covers a zone.
            InfeasibleJob: It cannot end by its deadline.
            InvalidArgument: It contradicts itself, or its deadline is too far ahead.
        """
        zones = tuple(self._catalog.get(zone) for zone in request.zones or ("",))
        earliest = max(now, request.earliest or now)
        wait = self._outlooks.day(zones[0]) if request.max_wait is None else request.max_wait
        job = Job(
            earliest=earliest,
            deadline=request.deadline or earliest + wait + request.duration,
            duration=request.duration,
            interruption=request.interruption,
            power=request.power,
        )
        job.check()
        self._check_reach(zones, job.deadline, "deadline")
        return Resolved(zones, job)

    def _check_reach(self, zones: Sequence[Zone], until: datetime, name: str) -> None:
        reach = min(self._outlooks.reach(zone) for zone in zones)
        if until - self._clock() > reach:
            raise InvalidArgument(
                f"{name} {until.isoformat()} is more than {reach} ahead, further than an outlook reaches",
                violations={name: f"at most {reach} ahead"},
            )
