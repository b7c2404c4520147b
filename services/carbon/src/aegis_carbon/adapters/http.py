"""Any JSON API, described by settings alone: URL templates, and paths to what an answer holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import quote

from aegis_carbon.adapters.json_api import JsonApi
from aegis_carbon.adapters.rows import UNITS, moment, number, passed, present, slots, spans
from aegis_carbon.domain.intensity import INTENSITY_TYPES, Intensity, Quality, Signal
from aegis_carbon.domain.providers import Capabilities, ProviderError, ProviderZone
from aegis_common.clock import Clock

NAME: Final = "http"
EPOCH: Final = "epoch"
_NOTHING: Final[tuple[Any, ...]] = (None, {}, [])
_RECENT: Final = timedelta(days=1)
"""How far back the present value is looked for."""
_HISTORY: Final = timedelta(days=365)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """One kind of question and its answer; dotted paths, of which a number indexes a list.

    Attributes:
        url: Template with `{zone}`, `{start}` and `{end}`.
        rows: Path from the answer to its rows, or to the only one; may hold `{zone}`.
        value: Path from a row to the intensity.
        start: Path from a row to the start of its slot.
        end: Path to its end; if empty, all slots have the length of a step.
        estimated: Path to what is true of a value that was not measured.
    """

    url: str
    rows: str
    value: str
    start: str
    end: str
    estimated: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpApi:
    """An API; times are UTC.

    Attributes:
        zones: Its zone ids, by ours.
        current: Asks for the present value; if None, `ahead` or else `past` serves.
        past: Asks for measured values.
        ahead: Asks for its forecast.
        unit: One of `UNITS`.
        signal: What its values are averages of.
        step: Length of a slot where answers do not say its end.
        horizon: How far ahead `{end}` lies in `ahead`.
        longest_span: Longest span of one request for the past.
        time_format: How `{start}` and `{end}` are written, for `strftime`, or `epoch`.
    """

    zones: Mapping[str, str]
    current: Shape | None
    past: Shape | None
    ahead: Shape | None
    unit: str
    signal: Signal
    step: timedelta | None
    horizon: timedelta
    longest_span: timedelta
    time_format: str


class HttpProvider:
    """One request per question, or per piece of a long span; retries and caching stand around it.

    Args:
        api: Asks; holds the headers.
        about: What to ask, and how to read the answers.
        clock: Says which slot is the present one.
    """

    name = NAME

    def __init__(self, api: JsonApi, about: HttpApi, *, clock: Clock) -> None:
        self._api = api
        self._about = about
        self._clock = clock
        self.zones = tuple(
            ProviderZone(zone, zone, about.signal, code=theirs) for zone, theirs in about.zones.items()
        )
        self.capabilities = Capabilities(
            live=True,
            qualities=frozenset({Quality.ACTUAL, Quality.FORECAST}),
            history=_HISTORY if about.past else timedelta(0),
            forecast=about.horizon if about.ahead else timedelta(0),
        )

    async def current(self, zone: str) -> Intensity | None:
        """See `IntensityProvider.current`."""
        now = self._clock()
        if self._about.current is None and self._about.ahead is not None:
            return present(await self.ahead(zone), now)
        shape = self._about.current or self._about.past
        found = await self._slots(zone, shape, now - _RECENT, now, Quality.ACTUAL)
        return present(found, now)

    async def past(self, zone: str, start: datetime, end: datetime) -> list[Intensity]:
        """See `IntensityProvider.past`."""
        now, found = self._clock(), list[Intensity]()
        for begin, until in spans(start, min(end, now), self._about.longest_span):
            found += await self._slots(zone, self._about.past, begin, until, Quality.ACTUAL)
        return passed(found, start, now)

    async def ahead(self, zone: str) -> list[Intensity]:
        """See `IntensityProvider.ahead`."""
        now = self._clock()
        until = now + self._about.horizon
        found = await self._slots(zone, self._about.ahead, now, until, Quality.FORECAST)
        return [slot for slot in found if slot.end > now]

    async def _slots(
        self, zone: str, shape: Shape | None, start: datetime, end: datetime, quality: Quality
    ) -> list[Intensity]:
        if shape is None:
            return []
        theirs = self._about.zones[zone]
        filled = {"zone": theirs, "start": self._written(start), "end": self._written(end)}
        url = shape.url.format(**{name: quote(text, safe=":") for name, text in filled.items()})
        answer = await self._api.get(url)
        return slots(_rows(answer, shape.rows, theirs), lambda row: self._slot(zone, shape, row, quality))

    def _written(self, time: datetime) -> str:
        if self._about.time_format == EPOCH:
            return str(int(time.timestamp()))
        return time.astimezone(UTC).strftime(self._about.time_format)

    def _slot(self, zone: str, shape: Shape, row: Any, quality: Quality) -> Intensity | None:
        value = _at(row, shape.value)
        if value is None:
            return None  # a gap stays a gap
        start = moment(_at(row, shape.start))
        estimated = bool(shape.estimated and _at(row, shape.estimated))
        return INTENSITY_TYPES[self._about.signal](
            zone=zone,
            g_per_kwh=number(float(value) if isinstance(value, str) else value) * UNITS[self._about.unit],
            start=start,
            end=moment(_at(row, shape.end)) if shape.end else start + (self._about.step or timedelta(0)),
            quality=Quality.FORECAST if estimated else quality,
            source=NAME,
            fetched_at=self._clock(),
        )


def _rows(answer: Any, path: str, zone: str) -> list[Any]:
    """Return the rows at *path*; an answer without content has none.

    Raises:
        ProviderError: There is something, but no rows at *path*.
    """
    try:
        found = answer if answer in _NOTHING else _at(answer, path, zone)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ProviderError("MALFORMED", f"no rows at {path!r} in {str(answer)[:80]!r}") from error
    if found in _NOTHING:
        return []
    if not isinstance(found, dict | list):
        raise ProviderError("MALFORMED", f"what is at {path!r} is no row: {str(found)[:80]!r}")
    return found if isinstance(found, list) else [found]


def _at(found: Any, path: str, zone: str = "") -> Any:
    for part in path.split(".") if path else []:
        key = part.replace("{zone}", zone)
        found = found[int(key)] if isinstance(found, list) else found[key]
    return found
