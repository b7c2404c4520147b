"""The UK Carbon Intensity API: Great Britain and its regions, half hours, UTC."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Final

import httpx

from aegis_carbon.domain.intensity import LONGEST_SLOT, AverageIntensity, Intensity, Quality
from aegis_carbon.domain.providers import Capabilities, ProviderError, ProviderZone
from aegis_common.clock import Clock

NAME: Final = "uk"
MAX_ANSWER_BYTES: Final = 1 << 20
NATIONAL: Final = "GB"
_LONGEST_RANGE: Final = timedelta(days=13)
"""Less than the 14 days that the API takes: it begins with the slot before."""
_FORM: Final = "%Y-%m-%dT%H:%MZ"

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
        client: HTTP client whose base URL is the API's; the caller closes it.
        clock: Says which slot is the present one.
        timeout: Longest time for one request, body included.
    """

    name = NAME
    capabilities = Capabilities(
        live=True,
        qualities=frozenset({Quality.ACTUAL, Quality.FORECAST}),
        history=timedelta(days=365),
        forecast=timedelta(hours=48),
    )
    zones = (
        ProviderZone(NATIONAL, "Great Britain"),
        *(ProviderZone(zone, f"{name}, Great Britain") for zone, (_, name) in _REGIONS.items()),
    )

    def __init__(self, client: httpx.AsyncClient, *, clock: Clock, timeout: timedelta) -> None:
        self._client = client
        self._clock = clock
        self._timeout_s = timeout.total_seconds()

    async def current(self, zone: str) -> AverageIntensity | None:
        """See `IntensityProvider.current`."""
        path = "intensity" if zone == NATIONAL else f"regional/regionid/{_REGIONS[zone][0]}"
        return _present(await self._slots(zone, path), self._clock())

    async def past(self, zone: str, start: datetime, end: datetime) -> list[Intensity]:
        """See `IntensityProvider.past`; regions have no measured values, only what was forecast last."""
        now, found = self._clock(), list[Intensity]()
        while start < min(end, now):
            until = min(end, now, start + _LONGEST_RANGE)
            found += await self._slots(zone, _span(zone, start, until.strftime(_FORM)))
            start = until
        kept = (slot for slot in found if slot.end <= now)
        return [slot for slot in kept if zone != NATIONAL or slot.quality is Quality.ACTUAL]

    async def ahead(self, zone: str) -> list[Intensity]:
        """See `IntensityProvider.ahead`."""
        now = self._clock()
        found = await self._slots(zone, _span(zone, now, "fw48h"))
        return [slot for slot in found if slot.end > now]

    async def _slots(self, zone: str, path: str) -> list[AverageIntensity]:
        return _intensities(zone, await self._get(path), self._clock())

    async def _get(self, path: str) -> Any:
        try:
            async with asyncio.timeout(self._timeout_s), self._client.stream("GET", path) as response:
                body = await _bounded(response)
        except (TimeoutError, httpx.TimeoutException) as error:
            raise ProviderError("TIMEOUT", f"GET {path} took too long", retryable=True) from error
        except httpx.DecodingError as error:
            raise ProviderError("MALFORMED", f"GET {path}: body cannot be decoded") from error
        except (httpx.HTTPError, OSError) as error:  # a TLS alert that comes late is an ssl.SSLError
            raise ProviderError("UNREACHABLE", f"GET {path}: {error}", retryable=True) from error
        if response.status_code != httpx.codes.OK:
            raise _status_error(path, response, body, self._clock())
        return _parsed(path, body)


def _span(zone: str, start: datetime, until: str) -> str:
    begin = start.astimezone(UTC).strftime(_FORM)
    if zone == NATIONAL:
        return f"intensity/{begin}/{until}"
    return f"regional/intensity/{begin}/{until}/regionid/{_REGIONS[zone][0]}"


async def _bounded(response: httpx.Response) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise ProviderError("TOO_LARGE", f"answer is longer than {MAX_ANSWER_BYTES} bytes")
    return bytes(body)


def _parsed(path: str, body: bytes) -> Any:
    try:
        answer = json.loads(body)
    except ValueError as error:
        raise ProviderError("MALFORMED", f"GET {path}: not JSON: {body[:80]!r}") from error
    if isinstance(answer, dict) and "error" in answer:
        raise ProviderError("REFUSED", f"GET {path}: {_told(body)}")
    return answer


def _status_error(path: str, response: httpx.Response, body: bytes, now: datetime) -> ProviderError:
    status = response.status_code
    return ProviderError(
        f"HTTP_{status}",
        f"GET {path}: {_told(body) or response.reason_phrase}",
        retryable=status == httpx.codes.TOO_MANY_REQUESTS or status >= httpx.codes.INTERNAL_SERVER_ERROR,
        retry_after=_retry_after(response.headers.get("retry-after", ""), now),
    )


def _told(body: bytes) -> str:
    """Return the message of an error answer `{"error": {"code", "message"}}`, or an empty string."""
    try:
        error = json.loads(body)["error"]
        return f"{error['code']}: {error['message']}"[:200]
    except (ValueError, KeyError, TypeError):
        return ""


def _retry_after(value: str, now: datetime) -> timedelta | None:
    """Read a Retry-After header: seconds, or a date."""
    if value.isascii() and value.isdigit():
        return timedelta(seconds=min(int(value), LONGEST_SLOT.total_seconds()))
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(timedelta(0), moment.replace(tzinfo=moment.tzinfo or UTC) - now)


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
    found, rows, broken = [], 0, 0
    for row in _rows(data or []):
        rows += 1
        try:
            slot = _slot(zone, row, now)
        except (ValueError, KeyError, TypeError):
            broken += 1
        else:
            found += [slot] if slot else []
    if rows and broken == rows:
        raise ProviderError("MALFORMED", f"no readable row among {rows}: {str(data)[:80]!r}")
    return found


def _slot(zone: str, row: Any, now: datetime) -> AverageIntensity | None:
    measured, forecast = row["intensity"].get("actual"), row["intensity"].get("forecast")
    value = forecast if measured is None else measured
    if value is None:
        return None  # a gap stays a gap
    return AverageIntensity(
        zone=zone,
        g_per_kwh=_number(value),
        start=_moment(row["from"]),
        end=_moment(row["to"]),
        quality=Quality.FORECAST if measured is None else Quality.ACTUAL,
        source=NAME,
        fetched_at=now,
    )


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a number")
    return float(value)


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _present(slots: Iterable[AverageIntensity], now: datetime) -> AverageIntensity | None:
    """Return the slot around *now*, else the one nearest to it; the lookup judges whether that is usable.

    Of overlapping slots the later start wins, and of duplicates the measured one.
    """

    def distance(slot: AverageIntensity) -> timedelta:
        return timedelta(0) if slot.covers(now) else max(slot.start - now, now - slot.end)

    def rank(slot: AverageIntensity) -> tuple[timedelta, timedelta, bool]:
        return distance(slot), now - slot.start, slot.quality is not Quality.ACTUAL

    return min(slots, key=rank, default=None)
