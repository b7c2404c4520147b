"""Removes runs whose retention is over; what they published stays."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Final

from aegis_common.clock import Clock
from aegis_fl_coordinator.domain.ports import RunFolders, RunStore

_log: Final = logging.getLogger(__name__)


class Retention:
    """The sweep over ended runs of all tenants."""

    def __init__(self, *, store: RunStore, folders: RunFolders, clock: Clock) -> None:
        self._store = store
        self._folders = folders
        self._clock = clock

    async def sweep(self) -> None:
        """Remove every run whose time is over; one that the ledger has not heard all of waits for it."""
        await asyncio.to_thread(self._folders.purge)
        for run in self._store.expired_runs(self._clock()):
            # The folder goes aside within the transaction: a crash leaves a run that the next sweep removes.
            aside = partial(self._folders.discard, run)
            if self._store.remove_run(run.run_id, now=self._clock(), also=aside):
                _log.info("run removed: its retention is over", extra={"run": run.name})
            await asyncio.sleep(0)  # calls come between
        await asyncio.to_thread(self._folders.purge)
