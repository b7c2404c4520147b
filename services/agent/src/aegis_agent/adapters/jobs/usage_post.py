"""Brings to the ledger what jobs used: again until it has it, and under one id, so that it counts once."""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from datetime import datetime
from typing import Any, Final

from aegis.carbon.v1 import ledger_service_pb2 as pb
from aegis_agent.adapters.jobs import keys
from aegis_agent.adapters.jobs.store import RedisJobStore
from aegis_agent.adapters.jobs.usage import SCHEMA_VERSION
from aegis_agent.adapters.ledger import Ledger
from aegis_agent.domain.jobs.errors import JobStoreUnavailable
from aegis_agent.domain.usage import gib_hours
from aegis_common.ledger import BATCH, LedgerAway, after
from aegis_common.rpc.times import timestamp

_log: Final = logging.getLogger(__name__)


class JobUsagePost:
    """Sends the notes that ended attempts left; any agent may, at any time, several at once too."""

    def __init__(self, store: RedisJobStore, ledger: Ledger) -> None:
        self._store = store
        self._ledger = ledger
        self._dropped = 0

    async def send(self) -> None:
        """Send what there is; what the ledger has is forgotten."""
        try:
            await self._tell_dropped()
            while await self._batch():
                pass
        except (JobStoreUnavailable, LedgerAway):
            return  # both say so themselves; the next turn goes on

    async def _batch(self) -> bool:
        """Send one batch; return whether there may be more."""
        found: list[tuple[bytes, dict[bytes, bytes]]] = await self._store.connection.run(
            lambda client: client.xrange(keys.USAGE, count=BATCH)
        )
        by_tenant: dict[str, list[tuple[bytes, dict[str, Any]]]] = defaultdict(list)
        for entry, fields in found:
            note = json.loads(fields[b"usage"])
            if note["schema_version"] != SCHEMA_VERSION:
                _log.error("a note of usage has schema version %s; it stays", note["schema_version"])
                return False
            by_tenant[note["tenant"]].append((entry, note))
        for tenant, notes in by_tenant.items():
            faults = await self._ledger.record(tenant, [_usage(note) for _, note in notes])
            for (_, note), fault in zip(notes, faults, strict=True):
                if fault:
                    _log.error("the ledger refuses the usage of job %s: %s", note["job"], fault)
            await self._forget([entry for entry, _ in notes])
        return len(found) == BATCH

    async def _forget(self, entries: list[bytes]) -> None:
        await self._store.connection.run(lambda client: client.xdel(keys.USAGE, *entries))

    async def _tell_dropped(self) -> None:
        dropped = int(await self._store.connection.run(lambda client: client.get(keys.USAGE_DROPPED)) or 0)
        if dropped > self._dropped:
            _log.error("the usage of %d attempts of jobs was dropped: too many wait for the ledger", dropped)
        self._dropped = dropped


def _usage(note: dict[str, Any]) -> pb.Usage:
    start, end = (datetime.fromisoformat(note[name]) for name in ("start", "end"))
    end = after(start, end)
    run_now = note["run_now"]
    return pb.Usage(
        id=note["id"],
        kind=pb.USAGE_KIND_JOB,
        start_time=timestamp(start),
        end_time=timestamp(end),
        zone=note["zone"],
        cpu_seconds=note["cpu_s"],
        memory_gib_hours=gib_hours(note["peak_bytes"], (end - start).total_seconds()),
        units=1,
        run_now_start_time=timestamp(datetime.fromisoformat(run_now)) if run_now else None,
        tool=note["tool"],
        model=note["model"],
        job=note["job"],
    )
