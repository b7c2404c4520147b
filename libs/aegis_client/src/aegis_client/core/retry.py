"""When a failed call is sent again: decisions only, no waiting."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Final, Generic, TypeVar

from google.protobuf.message import Message

from aegis_client.core.operation import Operation, Step, Upload, Watch
from aegis_client.errors import AegisApiError, Unavailable

T = TypeVar("T")
_BROKEN: Final = frozenset({"INTERNAL", "UNKNOWN", "CANCELLED"})
"""Codes that a stream broken on its way has; with a reason, a service meant them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often and how quickly failed calls are sent again.

    Attributes:
        attempts: Most times that one call is sent. 1 means no retries.
        stream_attempts: Most times in a row that a watch connects without hearing anything.
        first_delay_s: Upper bound of the wait before the second attempt, in seconds; it doubles each time.
        max_delay_s: Most that the bound grows to, in seconds. A service's `RetryInfo` may ask for more.
    """

    attempts: int = 4
    stream_attempts: int = 12
    first_delay_s: float = 0.2
    max_delay_s: float = 5.0

    def delay(self, failures: int, retry_after: timedelta | None) -> float:
        """Return the wait after so many failures, in seconds: half to all of the bound, at random."""
        bound = min(self.first_delay_s * 2.0 ** (failures - 1), self.max_delay_s)
        jittered = bound * random.uniform(0.5, 1.0)  # noqa: S311  # spreads load, keeps no secret
        return max(jittered, retry_after.total_seconds() if retry_after else 0.0)


@dataclass(slots=True)
class Attempts:
    """The attempts of one call with one answer, all within one deadline.

    Attributes:
        harmless: Whether sending the call again is known to do no harm, although its method does not say so.
    """

    operation: Operation[Any] | Upload[Any]
    policy: RetryPolicy
    clock: Callable[[], float] = time.monotonic
    failures: int = 0
    harmless: bool = False
    deadline: float = field(init=False)

    def __post_init__(self) -> None:
        timeout = self.operation.timeout
        self.deadline = self.clock() + (
            self.operation.method.default_timeout_s if timeout is None else timeout
        )

    @property
    def remaining(self) -> float:
        """Time left, in seconds; never below 0."""
        return max(self.deadline - self.clock(), 0.0)

    def question(self, error: AegisApiError) -> Operation[bool] | None:
        """Return what to ask before `pause`: its answer is `harmless`; None when there is nothing to ask."""
        operation = self.operation
        if isinstance(operation, Upload) or operation.harmless is None or self.harmless:
            return None
        left = self.remaining
        if not isinstance(error, Unavailable) or self.failures + 1 >= self.policy.attempts or not left:
            return None
        return replace(operation.harmless, timeout=left)

    def pause(self, error: AegisApiError) -> float:
        """Return how long to wait before the next attempt, in seconds.

        Raises:
            AegisApiError: *error* itself, when no further attempt is allowed.
        """
        self.failures += 1
        delay = self.policy.delay(self.failures, error.retry_after)
        operation = self.operation
        once = isinstance(operation, Upload) and not operation.repeatable
        repeatable = (operation.method.idempotent or self.harmless) and not once
        retryable = repeatable and isinstance(error, Unavailable)
        if not retryable or self.failures >= self.policy.attempts or delay >= self.remaining:
            raise error
        return delay


@dataclass(slots=True)
class Course(Generic[T]):
    """Where a watch stands: what it has seen, and how often it failed since it last heard something."""

    watch: Watch[T]
    policy: RetryPolicy
    clock: Callable[[], float] = time.monotonic
    failures: int = 0
    resume_token: str = field(init=False)
    deadline: float | None = field(init=False)

    def __post_init__(self) -> None:
        self.resume_token = self.watch.resume_token
        self.deadline = None if self.watch.timeout is None else self.clock() + self.watch.timeout

    @property
    def request(self) -> Message:
        return self.watch.request(self.resume_token)

    @property
    def remaining(self) -> float:
        """Deadline of the next stream, in seconds."""
        cap = self.watch.method.default_timeout_s
        return cap if self.deadline is None else min(cap, max(self.deadline - self.clock(), 0.0))

    def take(self, message: Any) -> Step[T]:
        step = self.watch.read(message)
        self.resume_token = step.resume_token or self.resume_token
        if not step.reconnect:
            self.failures = 0
        return step

    def pause(self, error: AegisApiError | None) -> float:
        """Return how long to wait before connecting again, in seconds.

        Args:
            error: Why the stream broke; None when the server asked to reconnect.

        Raises:
            AegisApiError: *error* itself, when connecting again would not help.
        """
        if error is not None and not self._broken(error):
            raise error
        self.failures += 1
        if error is None:
            return 0.0 if self.failures == 1 else self.policy.delay(self.failures, None)
        delay = self.policy.delay(self.failures, error.retry_after)
        if self.failures >= self.policy.stream_attempts:
            raise error
        if self.deadline is not None and delay >= self.deadline - self.clock():
            raise error
        return delay

    def _broken(self, error: AegisApiError) -> bool:
        if error.code == "DEADLINE_EXCEEDED":
            return self.deadline is None and not error.reason
        return isinstance(told_as_broken(error), Unavailable)


def told_as_broken(error: AegisApiError) -> AegisApiError:
    """Return `Unavailable` for the error of a stream that broke on its way, any other error as it is."""
    if error.reason or error.code not in _BROKEN:
        return error
    return Unavailable(f"the stream broke: {error.message}", code="UNAVAILABLE", trace_id=error.trace_id)
