"""The pause before another attempt."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from aegis_agent.domain.jobs.job import RetryPolicy

_MOST_DOUBLINGS: Final = 40


def backoff(policy: RetryPolicy, failures: int, *, share: float) -> timedelta:
    """Return the pause after so many failures.

    Args:
        policy: Its bounds.
        failures: 1 and up.
        share: 0 to 1, at random, so that jobs that failed together do not come back together.

    Returns:
        Half to all of the bound, which doubles with each failure.
    """
    grown = policy.initial_backoff.total_seconds() * 2.0 ** min(failures - 1, _MOST_DOUBLINGS)
    return timedelta(seconds=min(grown, policy.max_backoff.total_seconds()) * (0.5 + 0.5 * share))
