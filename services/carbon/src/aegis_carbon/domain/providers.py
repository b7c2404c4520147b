"""What the domain asks of its surroundings: providers, a cache, and somebody who counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from aegis_carbon.domain.intensity import Intensity, Quality, Signal
from aegis_carbon.domain.schedule import Decision


class ProviderError(Exception):
    """A provider failed, which is not the same as having no data.

    Args:
        fault: Short code, for example `TIMEOUT` or `HTTP_503`; reaches callers and metrics.
        message: For the log.
        retryable: Whether the same request may work soon.
        retry_after: When the provider said that it may be asked again.
    """

    def __init__(
        self, fault: str, message: str, *, retryable: bool = False, retry_after: timedelta | None = None
    ) -> None:
        super().__init__(f"{fault}: {message}")
        self.fault = fault
        self.retryable = retryable
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class ProviderZone:
    """A zone as a provider covers it."""

    id: str
    display_name: str
    signal: Signal = Signal.AVERAGE


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a provider can do.

    Attributes:
        live: True when it asks somebody else over a network: its answers are cached and may be stale.
            False for a series at hand, which is a profile to fall back on.
        qualities: The labels that its values may carry.
    """

    live: bool
    qualities: frozenset[Quality]


class IntensityProvider(Protocol):
    """A source of intensities; see `tests/test_provider_contract.py` for what each has to keep."""

    @property
    def name(self) -> str:
        """Name that answers carry as `source`."""

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def zones(self) -> Sequence[ProviderZone]: ...

    async def current(self, zone: str) -> Intensity | None:
        """Return the value of the present slot or, where that is not out yet, of the newest one before it.

        None means that the provider has no value; it never makes one up.

        Raises:
            ProviderError: The provider did not give a proper answer.
        """


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """What is remembered of one zone of one provider.

    Attributes:
        intensity: The last good value, however old; None when there never was one.
        ask_after: The provider is not asked before this moment.
        fault: What the last request came to; empty when it gave `intensity`.
    """

    intensity: Intensity | None
    ask_after: datetime
    fault: str = ""


@dataclass(frozen=True, slots=True)
class CacheKey:
    provider: str
    zone: str


class IntensityCache(Protocol):
    """Shared memory of the last answers. It never fails: without its store, it has nothing."""

    async def get(self, key: CacheKey) -> CacheEntry | None: ...

    async def put(self, key: CacheKey, entry: CacheEntry, *, keep: timedelta) -> None:
        """Remember *entry* for *keep*."""

    async def acquire(self, key: CacheKey, *, hold: timedelta) -> str | None:
        """Return a lease to ask the provider, which ends by itself after *hold*; None when another has it."""

    async def release(self, key: CacheKey, lease: str) -> None:
        """Give a lease back; one that has ended is left to its new owner."""


class Observer(Protocol):
    """Counts what happens."""

    def asked(self, key: CacheKey, outcome: str) -> None:
        """A provider was asked; *outcome* is `ok`, `no_data` or the fault."""

    def decided(self, decision: Decision) -> None: ...
