"""The connection to the Redis that holds jobs."""

from __future__ import annotations

import redis.asyncio

from aegis_agent.domain.jobs.errors import JobStoreUnavailable
from aegis_common.durable_redis import LIMIT_S, TIMEOUT_S, DurableRedis, connect

__all__ = ["TIMEOUT_S", "Connection", "connect"]


class Connection(DurableRedis):
    """Runs commands; a fault becomes `JobStoreUnavailable`, and is remembered.

    Args:
        client: From `connect`; the caller closes it.
        slow_s: A wait for longer than that is an outage too: nobody was served meanwhile.
        limit_s: Longest wait for one piece of work.
        checked: Whether the proof of durability has been given already.
    """

    def __init__(
        self,
        client: redis.asyncio.Redis,
        *,
        slow_s: float = TIMEOUT_S,
        limit_s: float = LIMIT_S,
        checked: bool = False,
    ) -> None:
        super().__init__(
            client,
            unavailable=JobStoreUnavailable.because,
            kept="jobs",
            advice="AEGIS_AGENT_JOB_STORE_CHECK=warn",
            slow_s=slow_s,
            limit_s=limit_s,
            checked=checked,
        )
