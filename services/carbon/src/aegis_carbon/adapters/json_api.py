"""Asking a provider's API for JSON: bounded in time and length; every failure is a `ProviderError`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from aegis_carbon.domain.intensity import LONGEST_SLOT
from aegis_carbon.domain.providers import ProviderError
from aegis_common.clock import Clock

MAX_ANSWER_BYTES: Final = 1 << 20
_LONGEST_TOLD: Final = 200


class JsonApi:
    """One request per `get`; retries and caching stand around the provider that asks.

    Args:
        client: HTTP client, with the base URL and headers of the API; the caller closes it.
        clock: Present time, for a Retry-After that is a date.
        timeout: Longest time for one request, body included.
    """

    def __init__(self, client: httpx.AsyncClient, *, clock: Clock, timeout: timedelta) -> None:
        self._client = client
        self._clock = clock
        self._timeout_s = timeout.total_seconds()

    async def get(
        self,
        url: str,
        *,
        params: Mapping[str, str | int] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Return the JSON that *url*, relative to the client's base URL, answers with.

        Raises:
            ProviderError: There is no answer in time, or it is no success, too long, or not JSON.
        """
        path = urlsplit(url).path  # a query may hold what logs should not
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._client.stream("GET", url, params=params, headers=headers) as response,
            ):
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
    except (ValueError, RecursionError) as error:
        raise ProviderError("MALFORMED", f"GET {path}: not JSON: {body[:80]!r}") from error
    if isinstance(answer, dict) and answer.get("error"):
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
    """Return the message of an error answer, `{"error": {"code", "message"}}` or `{"error": TEXT}`, or ""."""
    try:
        error = json.loads(body)["error"]
        told = f"{error['code']}: {error['message']}" if isinstance(error, dict) else str(error)
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return told[:_LONGEST_TOLD]


def _retry_after(value: str, now: datetime) -> timedelta | None:
    """Read a Retry-After header: seconds, or a date."""
    if value.isascii() and value.isdigit():
        return timedelta(seconds=min(int(value), LONGEST_SLOT.total_seconds()))
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(timedelta(0), moment.replace(tzinfo=moment.tzinfo or UTC) - now)
