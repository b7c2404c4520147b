"""A series from a file, shifted in time so that it is always current."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from aegis_carbon.adapters.series import Series
from aegis_carbon.domain.intensity import INTENSITY_TYPES, Intensity, Quality
from aegis_carbon.domain.providers import Capabilities, ProviderZone
from aegis_carbon.domain.timeseries import DAY
from aegis_common.clock import Clock
from aegis_common.errors import ConfigurationError

NAME: Final = "replay"
_MICROSECOND: Final = timedelta(microseconds=1)
_MONDAY: Final = datetime(1970, 1, 5, tzinfo=UTC)
_ANY_TIME: Final = timedelta(days=10_000)
PACKAGED: Final = Path(__file__).parent.parent / "data" / "synthetic_week.csv"
"""The series that ships with the package: made up, and labelled so."""


class ReplayProvider:
    """Answers from memory.

    A measured value that stands for another week is a forecast ("as in that week"), and labelled so; a
    synthetic value is synthetic whenever it is used. A gap in the file is a gap.

    Args:
        series: What is replayed.
        clock: Present time.
        speed: How much faster than time it runs: at 1440 a day passes in a minute, and slots are as much
            shorter. For demonstrations and tests.

    Raises:
        ConfigurationError: A slot at that speed is no whole number of microseconds.
    """

    name = NAME

    def __init__(self, series: Series, *, clock: Clock, speed: int = 1) -> None:
        if series.step % (speed * _MICROSECOND):
            raise ConfigurationError(
                f"replay_speed {speed} does not divide the slots of the series, {series.step}, evenly; "
                "for example 60 or 1440"
            )
        self._series = series
        self._clock = clock
        self._speed = speed
        self._step = series.step / speed
        self._make = INTENSITY_TYPES[series.signal]
        self.zones = tuple(ProviderZone(zone, name, series.signal) for zone, name in series.names.items())
        self.capabilities = Capabilities(
            live=False,
            qualities=frozenset({series.kind, self._quality(shifted=True)}),
            history=_ANY_TIME,
            day=DAY / speed,
        )

    async def current(self, zone: str) -> Intensity | None:
        """See `IntensityProvider.current`."""
        return self._at(zone, self._clock())

    async def past(self, zone: str, start: datetime, end: datetime) -> list[Intensity]:
        """See `IntensityProvider.past`: the series as it repeats."""
        step, end = self._step, min(end, self._clock())
        first = start - (start - _MONDAY) % step
        found = (self._at(zone, first + number * step) for number in range(-((first - end) // step)))
        return [slot for slot in found if slot is not None and slot.end <= end]

    async def ahead(self, zone: str) -> list[Intensity]:  # noqa: ARG002
        """See `IntensityProvider.ahead`: none, for a series that knows its own future would flatter plans."""
        return []

    def _at(self, zone: str, moment: datetime) -> Intensity | None:
        recorded, shifted = self._series.slot(_MONDAY, (moment - _MONDAY) * self._speed)
        value = self._series.values[zone].get(recorded)
        if value is None:
            return None
        start = moment - (moment - _MONDAY) % self._step
        return self._make(
            zone=zone,
            g_per_kwh=value,
            start=start,
            end=start + self._step,
            quality=self._quality(shifted=shifted or self._speed != 1),
            source=NAME,
            fetched_at=self._clock(),
        )

    def _quality(self, *, shifted: bool) -> Quality:
        if shifted and self._series.kind is Quality.ACTUAL:
            return Quality.FORECAST
        return self._series.kind
