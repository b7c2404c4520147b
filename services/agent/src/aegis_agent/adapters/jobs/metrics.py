"""What an agent reports of its jobs: how many wait, and how many it runs."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Final

from aegis_agent.adapters.jobs import keys
from aegis_agent.adapters.jobs.runner import JobRunner
from aegis_agent.adapters.jobs.store import RedisJobStore
from aegis_agent.domain.call import Priority
from aegis_agent.domain.jobs.errors import JobStoreUnavailable
from aegis_common.background import Every
from aegis_common.telemetry import Attributes, Telemetry

_LOOK: Final = timedelta(seconds=2)


class JobMetrics:
    """Counts every few seconds; use `counting()` as `async with`.

    Gauges: `aegis.jobs.queued` (by `priority`; all agents see the same queues), `aegis.jobs.deferred`,
    `aegis.jobs.running` (in this process) and `aegis.jobs.store_available` (1 or 0).
    """

    def __init__(self, store: RedisJobStore, runner: JobRunner, telemetry: Telemetry) -> None:
        self._store = store
        self._queued: dict[Priority, int] = {}
        self._deferred = 0
        self._available = False
        observe = telemetry.observe
        observe("aegis.jobs.queued", "{job}", "Jobs that wait for a slot.", self._by_priority)
        observe("aegis.jobs.deferred", "{job}", "Jobs that wait for their time.", lambda: self._deferred)
        observe("aegis.jobs.running", "{job}", "Jobs in hand of this process.", lambda: runner.running)
        observe("aegis.jobs.store_available", "1", "Whether the store answers.", lambda: int(self._available))

    def counting(self) -> Every:
        """Return the loop that counts."""
        return Every(_LOOK, self._count, name="jobs: count")

    async def _count(self) -> None:
        try:
            self._queued = {priority: await self._store.queue_length(priority) for priority in Priority}
            self._deferred = await self._store.connection.run(lambda client: client.zcard(keys.DELAYED))
            self._available = True
        except JobStoreUnavailable:
            self._available = False

    def _by_priority(self) -> Iterable[tuple[float, Attributes]]:
        return [(count, {"priority": priority.name.lower()}) for priority, count in self._queued.items()]
