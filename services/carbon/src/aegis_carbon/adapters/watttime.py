"""WattTime, version 3: marginal or average emissions, five minutes, UTC; needs an account."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from aegis_carbon.adapters.json_api import JsonApi
from aegis_carbon.adapters.rows import UNITS, moment, number, passed, present, slots, spans
from aegis_carbon.domain.intensity import INTENSITY_TYPES, Intensity, Quality, Signal
from aegis_carbon.domain.places import WATTTIME, GridZone, Point, Postcode
from aegis_carbon.domain.providers import Capabilities, ProviderError, ProviderZone
from aegis_common.clock import Clock

NAME: Final = "watttime"
SIGNALS: Final = {"co2_moer": Signal.MARGINAL, "co2_aoer": Signal.AVERAGE}
"""What its signals are averages of, by name."""
_UNITS: Final = {"lbs_co2_per_mwh": UNITS["lb/MWh"]}
"""Factor to gCO2/kWh; an index of percentiles is no intensity and has none."""
_TOKEN_LASTS: Final = timedelta(minutes=30)
_RENEW_BEFORE: Final = timedelta(minutes=2)
_HORIZON_HOURS: Final = 72
_LONGEST_RANGE: Final = timedelta(days=14)
"""Less than the 30 days that the API takes, so that an answer stays short."""
_FORM: Final = "%Y-%m-%dT%H:%M:%SZ"
_REFUSED: Final = "HTTP_401"


class Login:
    """Keeps a token: one login for all callers, again before it ends, and when it is refused.

    Args:
        api: Asks the API.
        user: Name of the account.
        password: Its password.
        clock: Says how old the token is.
    """

    def __init__(self, api: JsonApi, *, user: str, password: str, clock: Clock) -> None:
        pair = base64.b64encode(f"{user}:{password}".encode()).decode()
        self._basic = {"authorization": f"Basic {pair}"}
        self._api = api
        self._clock = clock
        self._lock = asyncio.Lock()
        self._token = ""
        self._until = datetime.min.replace(tzinfo=UTC)

    async def get(self, path: str, params: Mapping[str, str | int]) -> Any:
        """Return what *path* answers, after a login if it takes one.

        Raises:
            ProviderError: As from `JsonApi.get`.
        """
        token = await self._valid("")
        try:
            return await self._asked(path, params, token)
        except ProviderError as error:
            if error.fault != _REFUSED:
                raise
        return await self._asked(path, params, await self._valid(token))

    async def _asked(self, path: str, params: Mapping[str, str | int], token: str) -> Any:
        return await self._api.get(path, params=params, headers={"authorization": f"Bearer {token}"})

    async def _valid(self, refused: str) -> str:
        """Return a token that is not *refused* and lasts."""
        async with self._lock:
            if self._token == refused or self._clock() >= self._until:
                self._token = _token(await self._api.get("login", headers=self._basic))
                self._until = self._clock() + _TOKEN_LASTS - _RENEW_BEFORE
            return self._token


class WattTimeProvider:
    """One request per question, or per 14 days of history, and a login now and then.

    Args:
        login: Asks the API.
        zones: Its regions, by our zone ids.
        signal_type: One of `SIGNALS`.
        clock: Says which slot is the present one.
    """

    name = NAME
    capabilities = Capabilities(
        live=True,
        qualities=frozenset({Quality.ACTUAL, Quality.FORECAST}),
        history=timedelta(days=365),
        forecast=timedelta(hours=_HORIZON_HOURS),
        finds=frozenset({Point}),
    )

    def __init__(self, login: Login, *, zones: Mapping[str, str], signal_type: str, clock: Clock) -> None:
        self._login = login
        self._theirs = zones
        self._signal_type = signal_type
        self._make = INTENSITY_TYPES[SIGNALS[signal_type]]
        self._clock = clock
        self.zones = tuple(
            ProviderZone(zone, zone, SIGNALS[signal_type], code=theirs, naming=WATTTIME)
            for zone, theirs in zones.items()
        )

    async def current(self, zone: str) -> Intensity | None:
        """See `IntensityProvider.current`; the API gives the present value as the first of its forecast."""
        found = await self._slots(zone, "v3/forecast", Quality.FORECAST, horizon_hours=1)
        return present(found, self._clock())

    async def past(self, zone: str, start: datetime, end: datetime) -> list[Intensity]:
        """See `IntensityProvider.past`."""
        now, found = self._clock(), list[Intensity]()
        for begin, until in spans(start, min(end, now), _LONGEST_RANGE):
            span = {"start": _written(begin), "end": _written(until)}
            found += await self._slots(zone, "v3/historical", Quality.ACTUAL, **span)
        return passed(found, start, now)

    async def ahead(self, zone: str) -> list[Intensity]:
        """See `IntensityProvider.ahead`."""
        now = self._clock()
        found = await self._slots(zone, "v3/forecast", Quality.FORECAST, horizon_hours=_HORIZON_HOURS)
        return [slot for slot in found if slot.end > now]

    async def find(self, place: Point | Postcode) -> GridZone | None:
        """See `ZoneFinder.find`."""
        if not isinstance(place, Point):
            return None
        asked = {"latitude": f"{place.latitude:.2f}", "longitude": f"{place.longitude:.2f}"}
        try:
            answer = await self._login.get("v3/region-from-loc", {**asked, "signal_type": self._signal_type})
        except ProviderError as error:
            if error.fault == "HTTP_404":
                return None
            raise
        region = answer.get("region") if isinstance(answer, dict) else None
        if not isinstance(region, str):
            raise ProviderError("MALFORMED", f"no name of a region in {str(answer)[:80]!r}")
        return GridZone(region, WATTTIME)

    async def _slots(self, zone: str, path: str, quality: Quality, **more: str | int) -> list[Intensity]:
        region = self._theirs[zone]
        asked = {"region": region, "signal_type": self._signal_type, **more}
        answer = await self._login.get(path, asked)
        rows = _rows(answer)
        if not rows:
            return []
        factor, step = _meta(answer, region, self._signal_type)
        return slots(rows, lambda row: self._slot(zone, row, factor, step, quality))

    def _slot(
        self, zone: str, row: Any, factor: float, step: timedelta, quality: Quality
    ) -> Intensity | None:
        if row["value"] is None:
            return None  # a gap stays a gap
        start = moment(row["point_time"])
        return self._make(
            zone=zone,
            g_per_kwh=number(row["value"]) * factor,
            start=start,
            end=start + step,
            quality=quality,
            source=NAME,
            fetched_at=self._clock(),
        )


def _token(answer: Any) -> str:
    token = answer.get("token") if isinstance(answer, dict) else None
    if not isinstance(token, str) or not (token.isascii() and token.isprintable()) or not token:
        raise ProviderError("MALFORMED", "GET login: no token in the answer")
    return token


def _rows(answer: Any) -> list[Any]:
    if answer == {}:
        return []
    rows = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(rows, list):
        raise ProviderError("MALFORMED", f"no list `data` in {str(answer)[:80]!r}")
    return rows


def _meta(answer: Any, region: str, signal_type: str) -> tuple[float, timedelta]:
    """Return the factor to gCO2/kWh and the length of a slot.

    Raises:
        ProviderError: The values are in a unit that is no intensity, or not those that were asked for.
    """
    try:
        meta = answer["meta"]
        told = {"region": meta["region"], "signal_type": meta["signal_type"]}
        unit, step = meta["units"], timedelta(seconds=number(meta["data_point_period_seconds"]))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ProviderError("MALFORMED", f"`meta` lacks what it takes: {error!r}") from error
    if told != {"region": region, "signal_type": signal_type}:
        raise ProviderError("OTHER_ZONE", f"asked for {signal_type} of {region}, got {str(told)[:120]}")
    if unit not in _UNITS:
        raise ProviderError("OTHER_UNIT", f"values are in {str(unit)[:40]!r}, not {', '.join(_UNITS)}")
    return _UNITS[unit], step


def _written(time: datetime) -> str:
    return time.astimezone(UTC).strftime(_FORM)
