"""What the domain asks of its surroundings: providers, a cache, and somebody who counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, Generic, Protocol, TypeVar

from aegis_carbon.domain.intensity import Intensity, Quality, Signal
from aegis_carbon.domain.places import ISO, GridZone, Point, Postcode
from aegis_carbon.domain.schedule import Decision
from aegis_carbon.domain.timeseries import DAY


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
    """A zone as a provider covers it.

    Attributes:
        id: Zone id.
        display_name: Name for people.
        signal: What its values are averages of.
        code: What the provider calls it; empty where that is the id.
        naming: Whose names `code` is one of, as in `GridZone`.
    """

    id: str
    display_name: str
    signal: Signal = Signal.AVERAGE
    code: str = ""
    naming: str = ISO


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a provider can do.

    Attributes:
        live: True when it asks somebody else, as a rule over a network: its answers are cached and may be
            stale.
            False for a series at hand, which is a profile to fall back on.
        qualities: The labels that its values may carry.
        history: How far back `past` reaches; zero: not at all.
        forecast: How far ahead `ahead` reaches at best; zero: not at all.
        day: Length of a day of its series; shorter than 24 h in a replay that runs fast.
        finds: What places it finds the zone of: such a provider is a `ZoneFinder`, too.
    """

    live: bool
    qualities: frozenset[Quality]
    history: timedelta = timedelta(0)
    forecast: timedelta = timedelta(0)
    day: timedelta = DAY
    finds: frozenset[type[Point | Postcode]] = frozenset()


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

    async def past(self, zone: str, start: datetime, end: datetime) -> list[Intensity]:
        """Return the slots that touch the span from *start* to *end* and have passed, as far as it has them.

        They are what it takes for the truth: measured, or estimated where it measures nothing. In any order;
        gaps are left out.

        Raises:
            ProviderError: The provider did not give a proper answer.
        """

    async def ahead(self, zone: str) -> list[Intensity]:
        """Return its forecast: the slots that have not ended, as far as it has them, in any order.

        Raises:
            ProviderError: The provider did not give a proper answer.
        """


class ZoneFinder(Protocol):
    """A provider that knows which zone a place lies in."""

    @property
    def name(self) -> str: ...

    @property
    def capabilities(self) -> Capabilities: ...

    async def find(self, place: Point | Postcode) -> GridZone | None:
        """Return what the provider calls the zone of *place*, whether or not it is one of `zones`.

        None means that it lies in none; *place* is of a type in `capabilities.finds`.

        Raises:
            ProviderError: The provider did not give a proper answer.
        """


T = TypeVar("T")


class Topic(Enum):
    """What a provider was asked about a zone."""

    PRESENT = "present"
    PAST = "past"
    AHEAD = "ahead"
    PLACE = "place"


@dataclass(frozen=True, slots=True)
class CacheEntry(Generic[T]):
    """What is remembered of one zone of one provider.

    Attributes:
        value: The last good answer, however old; None when there never was one.
        ask_after: The provider is not asked before this moment.
        fault: What the last request came to; empty when it gave `value`.
    """

    value: T | None
    ask_after: datetime
    fault: str = ""


@dataclass(frozen=True, slots=True)
class CacheKey:
    """Of an entry; `zone` is a place where that is the topic."""

    provider: str
    zone: str
    topic: Topic = Topic.PRESENT


class IntensityCache(Protocol):
    """Shared memory of the last answers. It never fails: without its store, it has nothing."""

    async def get(self, key: CacheKey) -> CacheEntry[Any] | None:
        """Return the entry.

        Its value is an `Intensity` for the present, a `GridZone` for a place, else a `Known`.
        """

    async def put(self, key: CacheKey, entry: CacheEntry[Any], *, keep: timedelta) -> None:
        """Remember *entry* for *keep*."""

    async def acquire(self, key: CacheKey, *, hold: timedelta) -> str | None:
        """Return a lease to ask the provider, which ends by itself after *hold*; None when another has it."""

    async def release(self, key: CacheKey, lease: str) -> None:
        """Give a lease back; one that has ended is left to its new owner."""


class Observer(Protocol):
    """Counts what happens."""

    def asked(self, key: CacheKey, outcome: str, seconds: float) -> None:
        """A provider was asked and took so long; *outcome* is `ok`, `no_data` or the fault."""

    def decided(self, decision: Decision) -> None: ...
