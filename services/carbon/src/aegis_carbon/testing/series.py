"""Series that tests make."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final

import numpy as np

from aegis_carbon.domain.intensity import AverageIntensity, Quality, Signal
from aegis_carbon.domain.timeseries import IntensitySeries, Values

HALF_HOUR: Final = timedelta(minutes=30)
MONDAY: Final = datetime(2026, 1, 5, tzinfo=UTC)


def series(
    values: Iterable[float] | Values,
    *,
    start: datetime = MONDAY,
    step: timedelta = HALF_HOUR,
    zone: str = "DE",
    signal: Signal = Signal.AVERAGE,
) -> IntensitySeries:
    return IntensitySeries(
        zone=zone, signal=signal, start=start, step=step, values=np.array(list(values), np.float64)
    )


def slot(
    start: datetime,
    value: float,
    *,
    minutes: float = 30,
    quality: Quality = Quality.ACTUAL,
    fetched_at: datetime = MONDAY,
) -> AverageIntensity:
    end = start + timedelta(minutes=minutes)
    return AverageIntensity("DE", value, start, end, quality, "test", fetched_at)


def weeks(count: int, *, weekend: float = 0.7, noise: float = 0.0, seed: int = 0) -> Values:
    """Return half-hourly values from a Monday on: a daily course, cleaner weekends, slow weather."""
    slots = np.arange(count * 336)
    day = 300 + 80 * np.sin(2 * np.pi * (slots % 48) / 48)
    level = np.where(slots // 48 % 7 >= 5, weekend, 1.0)
    shocks = np.random.default_rng(seed).normal(0, noise, len(slots))
    weather = np.zeros(len(slots))
    for number in range(1, len(slots)):
        weather[number] = 0.98 * weather[number - 1] + shocks[number]
    return np.maximum(10.0, day * level + weather)
