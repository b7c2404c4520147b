"""A series from a file that somebody keeps up to date, at its own times."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from aegis_carbon.adapters.rows import passed, present
from aegis_carbon.adapters.series import Series, read_series
from aegis_carbon.domain.intensity import INTENSITY_TYPES, Intensity, Quality
from aegis_carbon.domain.providers import Capabilities, ProviderError, ProviderZone
from aegis_common.clock import Clock
from aegis_common.errors import ConfigurationError

NAME: Final = "file"
_ANY_TIME: Final = timedelta(days=10_000)
_AHEAD: Final = timedelta(days=14)
_NEWEST: Final = timedelta(days=3)
"""Beyond what anybody lets pass as stale."""


class FileProvider:
    """Answers from a file, which is read again when it has changed. A gap in it is a gap, and so is its end.

    A slot that has not ended was not measured: in a file of measured values it is a forecast.

    Args:
        path: CSV or JSON file in the form of `adapters/series.py`. Its zones and its signal are those of the
            first reading.
        clock: Present time.

    Raises:
        ConfigurationError: It cannot be read, or something in it is wrong.
    """

    name = NAME

    def __init__(self, path: Path, *, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._mark = _mark(path)
        self._series = series = read_series(path)
        self._signal = series.signal
        self.zones = tuple(ProviderZone(zone, name, series.signal) for zone, name in series.names.items())
        qualities = frozenset({Quality.ACTUAL, Quality.FORECAST, Quality.SYNTHETIC})
        # Somebody else writes it: what it says may be old, and is kept as the answers of an API are.
        self.capabilities = Capabilities(live=True, qualities=qualities, history=_ANY_TIME, forecast=_AHEAD)

    async def current(self, zone: str) -> Intensity | None:
        """See `IntensityProvider.current`."""
        now = self._clock()
        return present(await self._slots(zone, now - _NEWEST, now, now), now)

    async def past(self, zone: str, start: datetime, end: datetime) -> list[Intensity]:
        """See `IntensityProvider.past`."""
        now = self._clock()
        return passed(await self._slots(zone, start, end, now), start, now)

    async def ahead(self, zone: str) -> list[Intensity]:
        """See `IntensityProvider.ahead`."""
        now = self._clock()
        return await self._slots(zone, now, now + _AHEAD, now)

    async def _slots(self, zone: str, since: datetime, until: datetime, now: datetime) -> list[Intensity]:
        """Return the slots that end after *since* and start by *until*."""

        def read() -> list[Intensity]:
            series = self._read()
            make = INTENSITY_TYPES[series.signal]
            found: list[Intensity] = []
            for start, value in series.values.get(zone, {}).items():
                end = start + series.step
                if since < end and start <= until:
                    told = series.kind is not Quality.ACTUAL or end <= now
                    quality = series.kind if told else Quality.FORECAST
                    found.append(
                        make(
                            zone=zone,
                            g_per_kwh=value,
                            start=start,
                            end=end,
                            quality=quality,
                            source=NAME,
                            fetched_at=now,
                        )
                    )
            return found

        return await asyncio.to_thread(read)

    def _read(self) -> Series:
        try:
            mark = _mark(self._path)
            if mark != self._mark:
                series = read_series(self._path)
                if series.signal is not self._signal:
                    raise ProviderError("MALFORMED", f"{self._path} is of another signal than at the start")
                self._series, self._mark = series, mark
        except ConfigurationError as error:
            raise ProviderError("MALFORMED", error.message) from error
        return self._series


def _mark(path: Path) -> tuple[int, int, int]:
    """Return what changes when the file is written or replaced."""
    try:
        found = path.stat()
    except OSError as error:
        raise ConfigurationError(f"series file {path} cannot be read: {error}", path=str(path)) from error
    return found.st_ino, found.st_mtime_ns, found.st_size
