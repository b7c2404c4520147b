"""Finds what is expected of a zone: its history and its provider's forecast, cached, and ours beyond."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from aegis_carbon.domain.asking import Asking, LookupPolicy, Question
from aegis_carbon.domain.catalog import Zone
from aegis_carbon.domain.errors import TooLittleHistory, no_intensity_data
from aegis_carbon.domain.forecast import USEFUL_DAYS
from aegis_carbon.domain.known import Known
from aegis_carbon.domain.outlook import Outlook, outlook
from aegis_carbon.domain.providers import CacheEntry, CacheKey, IntensityProvider, Topic
from aegis_carbon.domain.scores import ForecastScores
from aegis_carbon.domain.timeseries import Values
from aegis_common.clock import Clock

LONGEST_DAYS: Final = 7
"""Days that an outlook reaches ahead at most."""
_AT_LEAST_DAYS: Final = 2
_CHUNK_DAYS: Final = 14
"""Days of history that one question is about; the rest follows with the next ones."""
_REVISED_DAYS: Final = 1
"""Measured values are still revised for so long."""
_SLOWER: Final = 3
"""Histories and forecasts change more slowly than the present value."""
_MOST_KEPT: Final = 64

_Key = tuple[object, ...]


class OutlookLookup:
    """Asks the providers of a zone in order of preference: the first that has a history, and a forecast.

    Args:
        providers: All of them.
        asking: Puts the questions.
        policy: How long answers last.
        clock: Present time.
        scores: Keeps forecasts, and scores them when measured values arrive.
    """

    def __init__(
        self,
        providers: Iterable[IntensityProvider],
        asking: Asking,
        *,
        policy: LookupPolicy,
        clock: Clock,
        scores: ForecastScores,
    ) -> None:
        self._scores = scores
        self._providers = {provider.name: provider for provider in providers}
        self._asking = asking
        self._policy = policy
        self._clock = clock
        self._made: dict[_Key, asyncio.Task[Outlook]] = {}

    def day(self, zone: Zone) -> timedelta:
        """Return the length of a day of the zone: 24 h, or less in a replay that runs fast."""
        return min(self._providers[name].capabilities.day for name in zone.providers)

    def reach(self, zone: Zone) -> timedelta:
        """Return how far ahead `get` looks at most."""
        return LONGEST_DAYS * self.day(zone)

    async def get(
        self, zone: Zone, *, until: datetime, within: float, since: datetime | None = None
    ) -> Outlook:
        """Return what is expected of *zone* from now to *until* at least.

        Args:
            zone: From the catalogue.
            until: Not further ahead than `reach`.
            within: Seconds that the caller can wait.
            since: When the caller looked at the clock: the outlook begins then, for time goes on meanwhile.

        Raises:
            NoIntensityData: No provider has a forecast, nor enough history to make one.
        """
        past, ahead = await asyncio.gather(
            self._first(zone, Topic.PAST, within), self._first(zone, Topic.AHEAD, within)
        )
        now = since or self._clock()
        try:
            return await self._outlook(past, ahead, now, until)
        except TooLittleHistory as error:
            faults = dict.fromkeys(zone.providers, "neither forecast nor a day of history")
            raise no_intensity_data(zone.id, faults, retry_after=self._policy.pause) from error

    async def past(self, zone: Zone, *, within: float, fresh: bool = False) -> Known | None:
        """Return what was measured of *zone*, by the first provider that has any of it; None if none has.

        Args:
            zone: From the catalogue.
            within: Seconds that the caller can wait.
            fresh: Whether to wait for the answer to a question that is due, instead of taking the one before.
        """
        return await self._first(zone, Topic.PAST, within, fresh=fresh)

    async def _outlook(
        self, past: Known | None, ahead: Known | None, now: datetime, until: datetime
    ) -> Outlook:
        known = past or ahead
        if known is None:
            raise TooLittleHistory("no provider has anything")
        series = known.series
        days = -((now - until) // series.day)
        reach = max(_AT_LEAST_DAYS, days + (0 if days <= _AT_LEAST_DAYS else 1))
        marks = tuple(map(self._mark, (past, ahead)))
        key = (series.zone, series.index(now), reach, *marks)
        making = self._made.get(key)
        if making is None:
            until = now + reach * series.day
            if past is not None:
                self._scores.measured(past)
            errors = None if ahead is None else self._errors(ahead, series.step, now, until)
            make = partial(outlook, past, ahead, now=now, until=until, errors=errors, mark=_digest(marks))
            making = self._begun(key, make)
        # Shielded: it is made once for all callers, also for those that stay when this one goes.
        return await asyncio.shield(making)

    def _errors(self, ahead: Known, step: timedelta, now: datetime, until: datetime) -> Values:
        """Return what the provider's own forecasts got wrong of late."""
        slots = -((now - until) // step) + 1
        return self._scores.errors(ahead.series.zone, ahead.source, step, slots)

    def _begun(self, key: _Key, make: Callable[[], Outlook]) -> asyncio.Task[Outlook]:
        """Make an outlook off the loop, for it takes some ten milliseconds; a failure is not kept."""
        if len(self._made) >= _MOST_KEPT:
            self._made.pop(next(iter(self._made)))
        making = self._made[key] = asyncio.create_task(asyncio.to_thread(make))

        def forget(task: asyncio.Task[Outlook]) -> None:
            if task.cancelled() or task.exception() is not None:
                self._made.pop(key, None)
            else:
                self._scores.given(task.result())

        making.add_done_callback(forget)
        return making

    def _mark(self, known: Known | None) -> tuple[object, ...]:
        """Return what tells this answer from the one before."""
        if known is None:
            return ()
        # What is at hand is asked for each time, and does not change.
        issued = known.issued_at if self._providers[known.source].capabilities.live else None
        return issued, known.source, known.series.start, known.series.end

    async def _first(self, zone: Zone, topic: Topic, within: float, *, fresh: bool = False) -> Known | None:
        able = [name for name in zone.providers if self._can(name, topic)]
        loop = asyncio.get_running_loop()
        deadline = loop.time() + within
        for index, name in enumerate(able):
            wait = max(0.0, deadline - loop.time()) / (len(able) - index)
            found = await self._known(CacheKey(name, zone.id, topic), wait, fresh=fresh)
            if found is not None:
                return found
        return None

    def _can(self, name: str, topic: Topic) -> bool:
        able = self._providers[name].capabilities
        return bool(able.history if topic is Topic.PAST else able.forecast)

    async def _known(self, key: CacheKey, wait: float, *, fresh: bool) -> Known | None:
        question = self._past(key) if key.topic is Topic.PAST else self._ahead(key)
        if not self._providers[key.provider].capabilities.live:
            return (await self._asking.at_once(key, question)).value
        entry = await self._asking.answer(
            key, question, wait=wait, enough=lambda entry: entry.value is not None and not fresh
        )
        return entry.value if entry is not None else None

    def _past(self, key: CacheKey) -> Question[Known]:
        provider = self._providers[key.provider]
        able = provider.capabilities
        useful = min(able.history, USEFUL_DAYS * able.day)
        chunk = useful if not able.live else _CHUNK_DAYS * able.day

        async def ask(last: Known | None) -> Known | None:
            now = self._clock()
            oldest = now - useful
            if last is None or last.series.end < oldest:
                found = await provider.past(key.zone, now - chunk, now)
                return Known.of(found, issued_at=now, day=able.day) if found else None
            newer = await provider.past(key.zone, last.series.end - _REVISED_DAYS * able.day, now)
            first = last.series.start
            since = max(oldest, first - chunk) if self._has_older(last, useful) else first
            older = await provider.past(key.zone, since, first) if since < first else []
            return last.with_more([*older, *newer], start=max(since, oldest), issued_at=now)

        def ask_after(found: Known) -> datetime:
            return self._clock() + (
                timedelta(0) if self._has_older(found, useful) else self._policy.ttl * _SLOWER
            )

        return Question(ask, ask_after, self._keep)

    def _has_older(self, known: Known, useful: timedelta) -> bool:
        return known.series.start - (self._clock() - useful) > known.series.day

    def _ahead(self, key: CacheKey) -> Question[Known]:
        provider = self._providers[key.provider]

        async def ask(_: Known | None) -> Known | None:
            slots = await provider.ahead(key.zone)
            now = self._clock()
            return Known.of(slots, issued_at=now, day=provider.capabilities.day) if slots else None

        return Question(ask, lambda _: self._clock() + self._policy.ttl * _SLOWER, self._keep)

    def _keep(self, entry: CacheEntry[Known]) -> timedelta:
        left = entry.ask_after - self._clock()
        # A history stays of use: ours is made of the same time of day on earlier days.
        day = entry.value.series.day if entry.value is not None else timedelta(0)
        return max(timedelta(0), left) + max(self._policy.max_stale, day)


def _digest(marks: tuple[tuple[object, ...], ...]) -> str:
    # The same in every replica that shares its answers with others.
    return hashlib.sha256(repr(marks).encode()).hexdigest()[:16]
