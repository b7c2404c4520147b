"""`CarbonScheduler`: the decision in one line, without a service."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from concurrent.futures import Future
from datetime import timedelta
from types import TracebackType
from typing import Final, Self

from pydantic import ValidationError

from aegis_carbon.domain.rules import ThresholdRule
from aegis_carbon.domain.schedule import MAX_THRESHOLD, Decision, OnMissing
from aegis_carbon.settings import IntensitySettings
from aegis_carbon.wiring import Carbon, carbon
from aegis_common.errors import ConfigurationError, InvalidArgument

DEFAULT_WAIT: Final = timedelta(seconds=8)
_STOP_S: Final = 5.0


class CarbonScheduler:
    """Says whether work should start now, from the same providers and settings as the service.

    It runs on a thread of its own, so it works in a plain script and inside a running event loop alike; a
    coroutine that must not wait calls `await asyncio.to_thread(scheduler.should_schedule_now)`. Thread-safe.
    Answers are cached between calls, so keep one scheduler. Close it, or use it in a `with` statement; an
    abandoned one closes itself.

    Args:
        default_threshold: Highest intensity at which to start, in gCO2e/kWh; above 0, at most 5000. If None,
            `CARBON_INTENSITY_THRESHOLD` and the thresholds set for single zones.
        zone: Zone id, for example `GB`; if omitted, the default zone of the settings.
        on_missing: What to decide without data.
        settings: If omitted, read from the environment.

    Raises:
        InvalidArgument: `default_threshold` is out of range, or `on_missing` is neither `run_now` nor `wait`.
        ConfigurationError: A setting in the environment is wrong.
    """

    def __init__(
        self,
        default_threshold: float | None = None,
        *,
        zone: str = "",
        on_missing: OnMissing | str = OnMissing.RUN_NOW,
        settings: IntensitySettings | None = None,
    ) -> None:
        self._threshold = _checked_threshold(default_threshold)
        self._zone = zone
        self._on_missing = _on_missing(on_missing)
        self._settings = settings or _from_environment()
        self._start()

    def should_schedule_now(
        self,
        *,
        zone: str = "",
        threshold: float | None = None,
        on_missing: OnMissing | str | None = None,
        wait: timedelta = DEFAULT_WAIT,
    ) -> Decision:
        """Return a decision, which is true when work may start.

        Args:
            zone: Zone id; if empty, the scheduler's own.
            threshold: In gCO2e/kWh; if None, the scheduler's own.
            on_missing: If None, the scheduler's own.
            wait: Longest time for the providers to answer; then the last value or *on_missing* decides.

        Raises:
            UnknownZone: No provider covers the zone.
            InvalidArgument: An argument is out of range.
            ConfigurationError: A setting does not fit, or the scheduler is closed.
        """
        limit = self._threshold if threshold is None else _checked_threshold(threshold)
        missing = self._on_missing if on_missing is None else _on_missing(on_missing)
        if self._pid != os.getpid():
            self._start()  # after a fork the thread is the parent's only
        return self._worker.check(zone or self._zone, limit, missing, wait.total_seconds())

    def _start(self) -> None:
        self._pid = os.getpid()
        self._worker = _Worker(self._settings)
        self._finalizer = weakref.finalize(self, self._worker.stop)

    def close(self) -> None:
        """Close connections and end the thread; may be called twice."""
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Worker:
    """An event loop on a thread, started by the first question; holds no reference to the scheduler."""

    def __init__(self, settings: IntensitySettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._ready: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event, Carbon]] = Future()
        self._closed = False

    def check(self, zone: str, limit: float | None, on_missing: OnMissing, within: float) -> Decision:
        with self._lock:
            if self._closed:
                raise ConfigurationError("this CarbonScheduler is closed; make a new one")
            if self._thread is None:
                self._thread = threading.Thread(
                    target=lambda: asyncio.run(self._run()), name="carbon-scheduler", daemon=True
                )
                self._thread.start()
        loop, _, built = self._ready.result()
        question = built.advisor.check(
            zone, within=within, rule=ThresholdRule(limit), on_missing=on_missing, look_ahead=False
        )
        return asyncio.run_coroutine_threadsafe(question, loop).result()

    def stop(self) -> None:
        with self._lock:
            self._closed = True
            thread = self._thread
        if thread is None:
            return
        try:
            loop, stop, _ = self._ready.result()
            loop.call_soon_threadsafe(stop.set)
        except (ConfigurationError, RuntimeError):
            return  # it never started, or has ended already
        thread.join(_STOP_S)

    async def _run(self) -> None:
        stop = asyncio.Event()
        try:
            async with carbon(self._settings) as built:
                self._ready.set_result((asyncio.get_running_loop(), stop, built))
                await stop.wait()
        except Exception as error:
            if self._ready.done():
                raise
            self._ready.set_exception(error)


def _from_environment() -> IntensitySettings:
    try:
        return IntensitySettings()
    except ValidationError as error:
        told = "\n  ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ConfigurationError(f"settings are wrong:\n  {told}") from None


def _checked_threshold(value: float | None) -> float | None:
    if value is None or 0 < value <= MAX_THRESHOLD:
        return value
    raise InvalidArgument(
        f"threshold {value} is not above 0 and at most {MAX_THRESHOLD:g} gCO2e/kWh", threshold=str(value)
    )


def _on_missing(value: OnMissing | str) -> OnMissing:
    try:
        return OnMissing(value)
    except ValueError:
        known = " or ".join(member.value for member in OnMissing)
        raise InvalidArgument(f"on_missing is {value!r}; it is {known}", on_missing=str(value)) from None
