"""Gathers what is known of a zone's past: measured, else what was forecast, else our own forecast."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final

import numpy as np

from aegis_carbon.domain.catalog import Zone
from aegis_carbon.domain.errors import NoIntensityData
from aegis_carbon.domain.intensity import Intensity, Quality
from aegis_carbon.domain.known import Known
from aegis_carbon.domain.ledger.emissions import Evidence, IntensityKind, Piece
from aegis_carbon.domain.ledger.usage import Estimate
from aegis_carbon.domain.lookup import IntensityLookup
from aegis_carbon.domain.outlook import IN_HOUSE, Outlook
from aegis_carbon.domain.outlooks import OutlookLookup

_PAST: Final = {
    Quality.ACTUAL: IntensityKind.ACTUAL,
    Quality.FORECAST: IntensityKind.ESTIMATED,
    Quality.STALE: IntensityKind.ESTIMATED,
    Quality.SYNTHETIC: IntensityKind.STATIC,
}
_AHEAD: Final = {
    Quality.ACTUAL: IntensityKind.ACTUAL,
    Quality.FORECAST: IntensityKind.FORECAST,
    Quality.STALE: IntensityKind.FORECAST,
    Quality.SYNTHETIC: IntensityKind.STATIC,
}


class EvidenceSource:
    """Asks the same lookups as decisions and plans do."""

    def __init__(self, lookup: IntensityLookup, outlooks: OutlookLookup) -> None:
        self._lookup = lookup
        self._outlooks = outlooks

    def day(self, zone: Zone) -> timedelta:
        """Return the length of a day of the zone: 24 h, or less in a replay that runs fast."""
        return self._outlooks.day(zone)

    async def get(
        self, zone: Zone, start: datetime, end: datetime, *, within: float, fresh: bool = False
    ) -> Evidence:
        """Return what is known of *zone* between two moments; what nobody knows is a gap.

        Args:
            zone: From the catalogue.
            start: First moment, UTC.
            end: Last moment; at most a little ahead of the present.
            within: Seconds that the caller can wait.
            fresh: Whether to wait for a newer past where one is due.
        """
        past = await self._outlooks.past(zone, within=within / 2, fresh=fresh)
        layers = [list(_past(past, start, end))] if past is not None else []
        if past is None or past.series.end < end:
            begin = start if past is None else max(start, past.series.end)
            present, outlook = await asyncio.gather(
                self._present(zone, within / 2), self._outlook(zone, begin, end, within / 2)
            )
            layers.append([_present(present)] if present is not None else [])
            layers.append(list(_expected(outlook, begin, end)) if outlook is not None else [])
        return Evidence(layers, zone.signal)

    async def _present(self, zone: Zone, within: float) -> Intensity | None:
        with suppress(NoIntensityData):
            return await self._lookup.current(zone, within=within)
        return None

    async def _outlook(self, zone: Zone, begin: datetime, end: datetime, within: float) -> Outlook | None:
        # An outlook that begins where the past ends fills what is not out yet; an old gap stays a gap.
        if end - begin > self._outlooks.reach(zone):
            return None
        with suppress(NoIntensityData):
            return await self._outlooks.get(zone, until=end, within=within, since=begin)
        return None


def _past(known: Known, start: datetime, end: datetime) -> Iterator[Piece]:
    series = known.series.between(start, end)
    for number in np.flatnonzero(~np.isnan(series.values)).tolist():
        value = float(series.values[number])
        yield Piece(
            start=series.start + number * series.step,
            end=series.start + (number + 1) * series.step,
            g_per_kwh=Estimate(value, value, value),
            kind=_PAST[known.quality],
            provider=known.source,
            settled=True,
        )


def _present(found: Intensity) -> Piece:
    value = found.g_per_kwh
    return Piece(
        start=found.start,
        end=found.end,
        g_per_kwh=Estimate(value, value, value),
        kind=_AHEAD[found.quality],
        provider=found.source,
    )


def _expected(outlook: Outlook, start: datetime, end: datetime) -> Iterator[Piece]:
    series = outlook.series
    for part in outlook.parts:
        kind = IntensityKind.INHOUSE if part.source == IN_HOUSE else _AHEAD[part.quality]
        for number in range(series.index(part.start), series.index(part.end)):
            begin = series.start + number * series.step
            if start <= begin + series.step and begin < end:
                value = float(series.values[number])
                yield Piece(
                    start=begin,
                    end=begin + series.step,
                    g_per_kwh=Estimate(value, float(outlook.low[number]), float(outlook.high[number])),
                    kind=kind,
                    provider=part.source,
                )
