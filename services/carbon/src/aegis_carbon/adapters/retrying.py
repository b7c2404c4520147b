"""Retries around a provider: only what may work soon, with jitter, within the provider's budget."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Final, TypeVar, cast

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, stop_before_delay
from tenacity.wait import wait_random_exponential

from aegis_carbon.domain.intensity import Intensity
from aegis_carbon.domain.places import GridZone, Point, Postcode
from aegis_carbon.domain.providers import (
    Capabilities,
    IntensityProvider,
    ProviderError,
    ProviderZone,
    ZoneFinder,
)

T = TypeVar("T")

ATTEMPTS: Final = 3
_BACKOFF: Final = wait_random_exponential(multiplier=0.2, max=2)


class RetryingProvider:
    """Asks *inner* up to 3 times; gives up early when the next attempt would begin after the budget.

    Args:
        inner: The provider.
        budget: Longest time for one question, waiting included. A Retry-After beyond it is not waited for:
            the error carries it on, and the lookup leaves the provider alone that long.
    """

    def __init__(self, inner: IntensityProvider, *, budget: timedelta) -> None:
        self._inner = inner
        self._budget = budget

    @property
    def name(self) -> str:
        return self._inner.name

    @property
    def capabilities(self) -> Capabilities:
        return self._inner.capabilities

    @property
    def zones(self) -> Sequence[ProviderZone]:
        return self._inner.zones

    async def current(self, zone: str) -> Intensity | None:
        """See `IntensityProvider.current`."""
        return await self._tried(partial(self._inner.current, zone))

    async def past(self, zone: str, start: datetime, end: datetime) -> list[Intensity]:
        """See `IntensityProvider.past`."""
        return await self._tried(partial(self._inner.past, zone, start, end))

    async def ahead(self, zone: str) -> list[Intensity]:
        """See `IntensityProvider.ahead`."""
        return await self._tried(partial(self._inner.ahead, zone))

    async def find(self, place: Point | Postcode) -> GridZone | None:
        """See `ZoneFinder.find`; *inner* is one where its capabilities say so."""
        return await self._tried(partial(cast("ZoneFinder", self._inner).find, place))

    async def _tried(self, question: Callable[[], Awaitable[T]]) -> T:
        attempts = AsyncRetrying(
            retry=retry_if_exception(lambda error: isinstance(error, ProviderError) and error.retryable),
            wait=_wait,
            stop=stop_after_attempt(ATTEMPTS) | stop_before_delay(self._budget),
            reraise=True,
        )
        result: T = await attempts(question)
        return result


def _wait(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    told = (
        error.retry_after.total_seconds() if isinstance(error, ProviderError) and error.retry_after else 0.0
    )
    return max(told, _BACKOFF(state))
