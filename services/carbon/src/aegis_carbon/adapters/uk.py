"""The UK Carbon Intensity API: Great Britain and its regions, half hours, UTC."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from aegis_carbon.adapters.json_api import JsonApi
from aegis_carbon.adapters.rows import moment, number, passed, present, slots, spans
from aegis_carbon.domain.intensity import AverageIntensity, Intensity, Quality
from aegis_carbon.domain.places import GridZone, Point, Postcode
from aegis_carbon.domain.providers import Capabilities, ProviderError, ProviderZone
from aegis_common.clock import Clock

NAME: Final = "uk"
NATIONAL: Final = "GB"
_LONGEST_RANGE: Final = timedelta(days=13)
"""Less than the 14 days that the API takes: it begins with the slot before."""
_FORM: Final = "%Y-%m-%dT%H:%MZ"

_WHOLE: Final = 18
"""Number of the region that is all of Great Britain."""
_UNKNOWN_POSTCODE: Final = ("HTTP_400", "HTTP_404")

_REGIONS: Final = {
    "GB-north-scotland": (1, "North Scotland"),
    "GB-south-scotland": (2, "South Scotland"),
    "GB-north-west-england": (3, "North West England"),
    "GB-north-east-england": (4, "North East England"),
    "GB-yorkshire": (5, "Yorkshire"),
    "GB-north-wales": (6, "North Wales and Merseyside"),
    "GB-south-wales": (7, "South Wales"),
    "GB-west-midlands": (8, "West Midlands"),
    "GB-east-midlands": (9, "East Midlands"),
    "GB-east-england": (10, "East England"),
    "GB-south-west-england": (11, "South West England"),
    "GB-south-england": (12, "South England"),
    "GB-london": (13, "London"),
    "GB-south-east-england": (14, "South East England"),
    "GB-england": (15, "England"),
    "GB-scotland": (16, "Scotland"),
    "GB-wales": (17, "Wales"),
}


class UkProvider:
    """One request per question; retries and caching stand around it.

    Args:
        api: Asks it; its base URL is the API's.
        clock: Says which slot is the present one.
    """

    name = NAME
    capabilities = Capabilities(
        live=True,
        qualities=frozenset({Quality.ACTUAL, Quality.FORECAST}),
        history=timedelta(days=365),
        forecast=timedelta(hours=48),
        finds=frozenset({Postcode}),
    )
    zones = (
        ProviderZone(NATIONAL, "Great Britain", code=f"GB-{_WHOLE}"),
        *(
            ProviderZone(zone, f"{name}, Great Britain", code=f"GB-{number}")
            for zone, (number, name) in _REGIONS.items()
        ),
    )

    def __init__(self, api: JsonApi, *, clock: Clock) -> None:
        self._api = api
        self._clock = clock

    async def current(self, zone: str) -> AverageIntensity | None:
        """See `IntensityProvider.current`."""
        path = "intensity" if zone == NATIONAL else f"regional/regionid/{_REGIONS[zone][0]}"
        return present(await self._slots(zone, path), self._clock())

    async def past(self, zone: str, start: datetime, end: datetime) -> list[Intensity]:
        """See `IntensityProvider.past`; regions have no measured values, only what was forecast last."""
        now, found = self._clock(), list[Intensity]()
        for begin, until in spans(start, min(end, now), _LONGEST_RANGE):
            found += await self._slots(zone, _span(zone, begin, until.strftime(_FORM)))
        kept = passed(found, start, now)
        return [slot for slot in kept if zone != NATIONAL or slot.quality is Quality.ACTUAL]

    async def ahead(self, zone: str) -> list[Intensity]:
        """See `IntensityProvider.ahead`."""
        now = self._clock()
        found = await self._slots(zone, _span(zone, now, "fw48h"))
        return [slot for slot in found if slot.end > now]

    async def find(self, place: Point | Postcode) -> GridZone | None:
        """See `ZoneFinder.find`; the API takes the first half of a postcode."""
        try:
            answer = await self._api.get(f"regional/postcode/{place}")
        except ProviderError as error:
            if error.fault in _UNKNOWN_POSTCODE:
                return None
            raise
        region = _region(answer)
        return None if region is None else GridZone(f"GB-{region}")

    async def _slots(self, zone: str, path: str) -> list[AverageIntensity]:
        return _intensities(zone, await self._api.get(path), self._clock())


def _span(zone: str, start: datetime, until: str) -> str:
    begin = start.astimezone(UTC).strftime(_FORM)
    if zone == NATIONAL:
        return f"intensity/{begin}/{until}"
    return f"regional/intensity/{begin}/{until}/regionid/{_REGIONS[zone][0]}"


def _region(answer: Any) -> int | None:
    """Return the number of the region in an answer, a list of one or the region itself; None of an empty one.

    Raises:
        ProviderError: There is something else.
    """
    data = answer.get("data") if isinstance(answer, dict) else answer
    if data in (None, [], {}):
        return None
    try:
        region = (data[0] if isinstance(data, list) else data)["regionid"]
    except (KeyError, TypeError) as error:
        raise ProviderError("MALFORMED", f"no region in {str(answer)[:80]!r}") from error
    if not isinstance(region, int) or not 1 <= region <= _WHOLE:
        raise ProviderError("MALFORMED", f"there is no region {str(region)[:40]!r}")
    return region


def _rows(data: Any) -> Iterator[Any]:
    """Yield the slot rows: those of `data`, or of the `data` of each region (a list of them, or one)."""
    for item in data if isinstance(data, list) else [data]:
        if isinstance(item, dict) and "data" in item:
            yield from item["data"] if isinstance(item["data"], list) else []
        else:
            yield item


def _intensities(zone: str, answer: Any, now: datetime) -> list[AverageIntensity]:
    """Return the slots of an answer that have a value.

    Raises:
        ProviderError: There are rows, and none of them is in the API's shape.
    """
    data = answer.get("data") if isinstance(answer, dict) else None
    if data is None and answer != {}:
        raise ProviderError("MALFORMED", f"no `data` in {str(answer)[:80]!r}")
    return slots(list(_rows(data or [])), lambda row: _slot(zone, row, now))


def _slot(zone: str, row: Any, now: datetime) -> AverageIntensity | None:
    measured, forecast = row["intensity"].get("actual"), row["intensity"].get("forecast")
    value = forecast if measured is None else measured
    if value is None:
        return None  # a gap stays a gap
    return AverageIntensity(
        zone=zone,
        g_per_kwh=number(value),
        start=moment(row["from"]),
        end=moment(row["to"]),
        quality=Quality.FORECAST if measured is None else Quality.ACTUAL,
        source=NAME,
        fetched_at=now,
    )
