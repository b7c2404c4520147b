"""The public keys of a token issuer: fetched in the background, stale ones served for a while."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final, Self
from urllib.parse import urlsplit

import httpx
import jwt

from aegis_common.auth.errors import TokenKeysUnavailable, TokenUnknownKey
from aegis_common.background import Every
from aegis_common.errors import ConfigurationError

ALGORITHMS: Final = frozenset({"ES256", "RS256", "EdDSA"})
"""Accepted signatures: all asymmetric. A key is used with its own algorithm only."""
MAX_DOCUMENT_BYTES: Final = 256 << 10
MIN_RSA_BITS: Final = 2048

_TIMEOUT_S: Final = 5.0
_RETRY: Final = timedelta(seconds=10)
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_DISCOVERY: Final = "/.well-known/openid-configuration"
_log = logging.getLogger(__name__)


class _Failed(Exception):
    """A key set could not be fetched or read; the text says why."""


@dataclass(frozen=True, slots=True)
class KeyStats:
    """What the metrics show of a key set.

    Attributes:
        failed_refreshes: Refreshes that failed since the start.
        age_s: Seconds since the last good refresh; None before the first.
        keys: Keys in use.
    """

    failed_refreshes: int
    age_s: float | None
    keys: int


class KeySource:
    """A JSON Web Key Set in a file or at a URL; use as `async with`.

    Args:
        location: Path, or https URL (http to loopback only) of the key set.
        issuer: With an empty *location*: the issuer, whose OpenID configuration names the key set.
        refresh: How often the set is read again; sooner after a failure.
        max_stale: How long keys stay in use when no refresh succeeds.
        bundle: CA certificates for https; the system's if omitted.
        unknown_key_pause: Least time between two refreshes that unknown key ids ask for.
        monotonic: Seconds of a clock that only goes forward.

    Raises:
        ConfigurationError: The location is neither a path nor an allowed URL.
    """

    def __init__(
        self,
        location: str,
        *,
        issuer: str = "",
        refresh: timedelta = timedelta(seconds=60),
        max_stale: timedelta = timedelta(hours=24),
        bundle: Path | None = None,
        unknown_key_pause: timedelta = timedelta(seconds=5),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._location = location or issuer.rstrip("/") + _DISCOVERY
        self._discover_for = "" if location else issuer
        self._is_url = not location or "://" in location
        if self._is_url:
            _checked_url(self._location)
        self._refresh = refresh
        self._max_stale_s = max_stale.total_seconds()
        self._bundle = bundle
        self._pause_s = unknown_key_pause.total_seconds()
        self._monotonic = monotonic
        self._keys: Mapping[str, jwt.PyJWK] = {}
        self._document: bytes | None = None
        self._good_at: float | None = None
        self._tried_at = float("-inf")
        self._failures = 0
        self._last_failed = False
        self._version = 0
        self._lock = asyncio.Lock()
        self._client: httpx.AsyncClient | None = None
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Read the set for the first time, and start to refresh it.

        Raises:
            ConfigurationError: A file cannot be used. An unreachable URL only leaves the source without keys.
        """
        async with AsyncExitStack() as stack:
            if self._is_url:
                self._client = await stack.enter_async_context(await asyncio.to_thread(self._new_client))
            await self._try_refresh()
            if self._good_at is None and not self._is_url:
                raise ConfigurationError(
                    f"key set {self._location} cannot be used; the log says why", path=self._location
                )
            every = Every(self._next_refresh, self._try_refresh, name="token key refresh")
            await stack.enter_async_context(every)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._stack.aclose()
        self._client = None

    @property
    def version(self) -> int:
        """Changes whenever the keys change."""
        return self._version

    def stats(self) -> KeyStats:
        age = None if self._good_at is None else self._monotonic() - self._good_at
        return KeyStats(self._failures, age, len(self._keys))

    @property
    def usable(self) -> bool:
        """True when there are keys, and they are not older than `max_stale`."""
        return self._good_at is not None and self._monotonic() - self._good_at <= self._max_stale_s

    async def find(self, key_id: str | None) -> jwt.PyJWK:
        """Return the key that a token names.

        An unknown name, or the lack of usable keys, causes one refresh, if there was none just now. A token
        without a key id gets the only key of a set of one.

        Raises:
            TokenUnknownKey: The issuer does not publish such a key.
            TokenKeysUnavailable: There are no usable keys.
        """
        key = self._lookup(key_id)
        if key is None or not self.usable:
            async with self._lock:
                key = self._lookup(key_id)
                missing = key is None or not self.usable
                if missing and self._monotonic() - self._tried_at >= self._pause_s:
                    await self._locked_refresh()
                    key = self._lookup(key_id)
        if not self.usable:
            raise TokenKeysUnavailable(
                "the token issuer's keys cannot be fetched now; keep the token and try again",
                retry_after=_RETRY,
            )
        if key is None:
            shown = "no key id" if key_id is None else f"key {key_id[:64]!r}"
            raise TokenUnknownKey(
                f"token is signed with {shown}, which the issuer does not publish; get a new token"
            )
        return key

    def _lookup(self, key_id: str | None) -> jwt.PyJWK | None:
        if key_id is not None:
            return self._keys.get(key_id)
        return next(iter(self._keys.values())) if len(self._keys) == 1 else None

    def _next_refresh(self) -> timedelta:
        return min(self._refresh, _RETRY) if self._last_failed else self._refresh

    async def _try_refresh(self) -> None:
        async with self._lock:
            await self._locked_refresh()

    async def _locked_refresh(self) -> None:
        self._tried_at = self._monotonic()
        try:
            document = await self._fetch()
            keys = self._keys if document == self._document else parse_keys(document)
        except _Failed as error:
            self._failures += 1
            self._last_failed = True
            _log.warning("token keys of %s were not refreshed: %s", self._location, error)
            return
        self._last_failed = False
        self._good_at = self._monotonic()
        if document != self._document:
            self._document, self._keys = document, keys
            self._version += 1
            _log.info("token keys of %s: %s", self._location, sorted(keys))

    async def _fetch(self) -> bytes:
        if not self._is_url:
            return await asyncio.to_thread(_read_bounded, Path(self._location))
        if not self._discover_for:
            return await self._get(self._location)
        configuration = _object(await self._get(self._location))
        if configuration.get("issuer") != self._discover_for:
            raise _Failed(f"{self._location} is the configuration of issuer {configuration.get('issuer')!r}")
        try:
            url = _checked_url(str(configuration.get("jwks_uri")), like=self._location)
        except ConfigurationError as error:
            raise _Failed(f"jwks_uri: {error.message}") from error
        return await self._get(url)

    async def _get(self, url: str) -> bytes:
        if self._client is None:
            raise _Failed("not started")
        content = bytearray()
        try:
            async with (
                asyncio.timeout(_TIMEOUT_S),
                self._client.stream("GET", url, headers={"accept": "application/json"}) as response,
            ):
                if response.status_code != httpx.codes.OK:
                    raise _Failed(f"{url} answered {response.status_code}")
                async for chunk in response.aiter_bytes():
                    content += chunk
                    if len(content) > MAX_DOCUMENT_BYTES:
                        raise _Failed(f"{url} is larger than {MAX_DOCUMENT_BYTES} bytes")
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise _Failed(f"{url}: {str(error) or type(error).__name__}") from error
        return bytes(content)

    def _new_client(self) -> httpx.AsyncClient:
        secure = urlsplit(self._location).scheme == "https"
        try:
            context = ssl.create_default_context(cafile=str(self._bundle) if self._bundle else None)
        except OSError as error:
            raise ConfigurationError(
                f"CA bundle {self._bundle} for the token keys cannot be used: {error}"
            ) from error
        # A proxy of the environment is for the outside; it cannot reach our loopback.
        return httpx.AsyncClient(verify=context, timeout=_TIMEOUT_S, trust_env=secure)


def _checked_url(url: str, *, like: str = "") -> str:
    """Return *url* when keys may be fetched from it, and it is as secure as the URL *like* that named it."""
    parts = urlsplit(url)
    allowed = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)
    if parts.hostname and allowed and not (like.startswith("https:") and parts.scheme == "http"):
        return url
    raise ConfigurationError(f"token keys come by https, not from {url!r} (http: loopback only)", url=url)


def parse_keys(document: bytes) -> Mapping[str, jwt.PyJWK]:
    """Read the signing keys of a JSON Web Key Set, by key id; keys for other purposes are left out."""
    entries = _object(document).get("keys")
    if not isinstance(entries, list):
        raise _Failed("it is no JSON Web Key Set: no list of keys")
    keys: dict[str, jwt.PyJWK] = {}
    for entry in entries:
        key = _signing_key(entry)
        if key is not None:
            if (name := key.key_id or "") in keys:
                raise _Failed(f"two keys have the key id {name!r}")
            keys[name] = key
    if not keys:
        raise _Failed(f"it holds no signing key for {', '.join(sorted(ALGORITHMS))}")
    return keys


def _signing_key(entry: object) -> jwt.PyJWK | None:
    if not isinstance(entry, dict) or entry.get("kty") == "oct" or entry.get("use", "sig") != "sig":
        return None
    try:
        key = jwt.PyJWK(entry)
    except (jwt.PyJWTError, ValueError, TypeError):
        return None
    if key.algorithm_name not in ALGORITHMS:
        return None
    if key.key_type == "RSA" and key.key.key_size < MIN_RSA_BITS:
        return None
    return key


def _object(document: bytes) -> dict[str, object]:
    try:
        data = json.loads(document)
    except (ValueError, RecursionError) as error:
        raise _Failed(f"no valid JSON: {error}") from error
    if not isinstance(data, dict):
        raise _Failed("no JSON object")
    return data


def _read_bounded(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_DOCUMENT_BYTES + 1)
    except OSError as error:
        raise _Failed(error.strerror or str(error)) from error
    if len(content) > MAX_DOCUMENT_BYTES:
        raise _Failed(f"larger than {MAX_DOCUMENT_BYTES} bytes")
    return content
