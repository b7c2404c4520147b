"""Electricity Maps, version 3: zones of the whole world, hours, UTC; needs a key."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from aegis_carbon.adapters.json_api import JsonApi
from aegis_carbon.adapters.rows import moment, number, passed, present, slots, spans
from aegis_carbon.domain.intensity import AverageIntensity, Intensity, Quality
from aegis_carbon.domain.places import GridZone, Point, Postcode
from aegis_carbon.domain.providers import Capabilities, ProviderError, ProviderZone
from aegis_common.clock import Clock

NAME: Final = "electricity_maps"
KEY_HEADER: Final = "auth-token"
_STEPS: Final = {"5_minutes": 5, "15_minutes": 15, "hourly": 60}
"""Minutes by `temporalGranularity`."""
_HOURLY: Final = "hourly"
_HISTORY: Final = timedelta(hours=24)
"""What `history` holds; not every key may ask for more."""
_LONGEST_RANGE: Final = timedelta(days=10)
_NOT_ALLOWED: Final = ("HTTP_401", "HTTP_403")
_NO_CALLER_LOOKUP: Final = {"shouldUseFallbackCallerLookup": "false"}
"""Else an unknown zone would be answered with that of the caller's address."""
_FORM: Final = "%Y-%m-%dT%H:%M:%SZ"


class ElectricityMapsProvider:
    """One request per question, or per 10 days of history; retries and caching stand around it.

    Args:
        api: Asks it; its base URL ends with the version, and its headers hold the key.
        zones: Its zone ids, by ours.
        emission_factors: `lifecycle`, or `direct` for what leaves the chimney.
        clock: Says which slot is the present one.
    """

    name = NAME
    capabilities = Capabilities(
        live=True,
        qualities=frozenset({Quality.ACTUAL, Quality.FORECAST}),
        history=timedelta(days=365),
        forecast=timedelta(hours=72),
        finds=frozenset({Point}),
    )

    def __init__(
        self, api: JsonApi, *, zones: Mapping[str, str], emission_factors: str, clock: Clock
    ) -> None:
        self._api = api
        self._theirs = zones
        self._factors = emission_factors
        self._clock = clock
        self.zones = tuple(ProviderZone(zone, zone, code=theirs) for zone, theirs in zones.items())

    async def current(self, zone: str) -> AverageIntensity | None:
        """See `IntensityProvider.current`."""
        return present(await self._slots(zone, "latest"), self._clock())

    async def past(self, zone: str, start: datetime, end: datetime) -> list[Intensity]:
        """See `IntensityProvider.past`; what is estimated there is labelled a forecast.

        A key that may not ask for a span gets what of it lies in the last day.
        """
        now = self._clock()
        end = min(end, now)
        if start < now - _HISTORY:
            try:
                return passed(await self._range(zone, start, end), start, now)
            except ProviderError as error:
                if error.fault not in _NOT_ALLOWED:
                    raise
        return passed(await self._slots(zone, "history"), start, end)

    async def ahead(self, zone: str) -> list[Intensity]:
        """See `IntensityProvider.ahead`."""
        now = self._clock()
        return [slot for slot in await self._slots(zone, "forecast") if slot.end > now]

    async def find(self, place: Point | Postcode) -> GridZone | None:
        """See `ZoneFinder.find`; the API tells the zone of a point beside its present value."""
        if not isinstance(place, Point):
            return None
        asked = {"lat": f"{place.latitude:.2f}", "lon": f"{place.longitude:.2f}", **_NO_CALLER_LOOKUP}
        try:
            answer = await self._api.get("carbon-intensity/latest", params=asked)
        except ProviderError as error:
            if error.fault == "HTTP_404":
                return None
            raise
        zone = answer.get("zone") if isinstance(answer, dict) else None
        if zone is not None and not isinstance(zone, str):
            raise ProviderError("MALFORMED", f"no name of a zone: {str(zone)[:40]!r}")
        return GridZone(zone) if zone else None

    async def _range(self, zone: str, start: datetime, end: datetime) -> list[Intensity]:
        found = list[Intensity]()
        for begin, until in spans(start, end, _LONGEST_RANGE):
            found += await self._slots(zone, "past-range", start=_written(begin), end=_written(until))
        return found

    async def _slots(self, zone: str, question: str, **span: str) -> list[AverageIntensity]:
        asked = {
            "zone": self._theirs[zone],
            "emissionFactorType": self._factors,
            **_NO_CALLER_LOOKUP,
            **span,
        }
        answer = await self._api.get(f"carbon-intensity/{question}", params=asked)
        return slots(_rows(answer, question), lambda row: self._slot(zone, question, answer, row))

    def _slot(self, zone: str, question: str, answer: Any, row: Any) -> AverageIntensity | None:
        for part in (answer, row):
            if part.get("zone", self._theirs[zone]) != self._theirs[zone]:
                told = f"asked for zone {self._theirs[zone]}, got {str(part['zone'])[:40]!r}"
                raise ProviderError("OTHER_ZONE", told)
        if row["carbonIntensity"] is None:
            return None  # a gap stays a gap
        start = moment(row["datetime"])
        estimated = question == "forecast" or row.get("isEstimated") is True
        return AverageIntensity(
            zone=zone,
            g_per_kwh=number(row["carbonIntensity"]),
            start=start,
            end=start + timedelta(minutes=_STEPS[answer.get("temporalGranularity", _HOURLY)]),
            quality=Quality.FORECAST if estimated else Quality.ACTUAL,
            source=NAME,
            fetched_at=self._clock(),
        )


def _rows(answer: Any, question: str) -> list[Any]:
    """Return the rows: the answer itself for `latest`, else its list.

    Raises:
        ProviderError: The answer has content, and no such list.
    """
    if not isinstance(answer, dict):
        raise ProviderError("MALFORMED", f"no object, but {str(answer)[:80]!r}")
    if question == "latest":
        return [answer] if answer else []
    rows = answer.get("data" if question == "past-range" else question, None if answer else [])
    if not isinstance(rows, list):
        raise ProviderError("MALFORMED", f"no list of values in {str(answer)[:80]!r}")
    return rows


def _written(time: datetime) -> str:
    return time.astimezone(UTC).strftime(_FORM)
