"""The post that brings to the carbon service's ledger what calls used."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Sequence
from datetime import timedelta
from typing import Final, Protocol, Self

from aegis.carbon.v1 import ledger_service_pb2 as pb
from aegis_agent.domain.usage_book import UsageBook, UsageSum
from aegis_common.background import Every
from aegis_common.ledger import BATCH, LedgerAway, after
from aegis_common.rpc.times import timestamp

_LAST_S: Final = 3.0
_log: Final = logging.getLogger(__name__)


class Ledger(Protocol):
    """Records what work used."""

    async def record(self, tenant: str, usages: Sequence[pb.Usage]) -> list[str]:
        """Record usages; return for each what is wrong with it, or an empty text when it is recorded.

        Raises:
            LedgerAway: None was recorded, as far as is known; sending them again does no harm.
        """
        ...


class UsagePost:
    """Brings what a book has to the ledger; use as `async with`, which sends the last of it at the end.

    Args:
        book: The book.
        ledger: The ledger.
        zone: `zones/{zone}` in which the calls ran, or empty for the carbon service's default.
        interval: Pause between two turns.
    """

    def __init__(self, book: UsageBook, ledger: Ledger, *, zone: str, interval: timedelta) -> None:
        self._book = book
        self._ledger = ledger
        self._zone = zone
        self._every = Every(interval, self.send, name="usage of calls")

    async def __aenter__(self) -> Self:
        await self._every.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._every.__aexit__()
        try:
            async with asyncio.timeout(_LAST_S):
                await self.send()
        except TimeoutError:
            pass
        if left := len(self._book):
            _log.warning("the ledger was not told of %d sums of calls", left)

    async def send(self) -> None:
        """Send what there is."""
        while sums := self._book.take(BATCH):
            by_tenant = defaultdict(list)
            for item in sums:
                by_tenant[item.key.tenant].append(item)
            for tenant, items in by_tenant.items():
                try:
                    faults = await self._ledger.record(tenant, [self._usage(item) for item in items])
                except LedgerAway:
                    return
                for item, fault in zip(items, faults, strict=True):
                    if fault:
                        _log.error("the ledger refuses the usage of %d calls: %s", item.calls, fault)
                    self._book.settled(item, recorded=not fault)

    def _usage(self, item: UsageSum) -> pb.Usage:
        return pb.Usage(
            id=item.id,
            kind=pb.USAGE_KIND_CALL,
            start_time=timestamp(item.start),
            end_time=timestamp(after(item.start, item.end)),
            zone=self._zone,
            cpu_seconds=item.cpu_s,
            memory_gib_hours=item.memory_gib_h,
            units=item.calls,
            tool=item.key.tool,
            model=item.key.model,
        )
