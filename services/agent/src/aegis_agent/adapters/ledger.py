"""The way to the carbon service's ledger, and the post that brings it what calls used."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final, Protocol, Self

import grpc
import grpc.aio

from aegis.carbon.v1 import ledger_service_pb2 as pb
from aegis.carbon.v1 import ledger_service_pb2_grpc as pb_grpc
from aegis_agent.domain.usage_book import UsageBook, UsageSum
from aegis_common.auth.principal import Principal
from aegis_common.background import Every
from aegis_common.rpc.errors import remote_error
from aegis_common.rpc.outgoing import acting_for
from aegis_common.rpc.times import timestamp

BATCH: Final = 500
"""Usages that are sent at once."""
_TIMEOUT_S: Final = 10.0
_LAST_S: Final = 3.0
_LEAST: Final = timedelta(milliseconds=1)
_SUBJECT: Final = "agent"
_log: Final = logging.getLogger(__name__)


class LedgerAway(Exception):
    """The ledger took nothing; what was sent is to be sent again."""


class Ledger(Protocol):
    """Records what work used."""

    async def record(self, tenant: str, usages: Sequence[pb.Usage]) -> list[str]:
        """Record usages; return for each what is wrong with it, or an empty text when it is recorded.

        Raises:
            LedgerAway: None was recorded, as far as is known; sending them again does no harm.
        """
        ...


class GrpcLedger:
    """A `Ledger` over one channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = pb_grpc.LedgerServiceStub(channel)
        self._trouble = ""

    async def record(self, tenant: str, usages: Sequence[pb.Usage]) -> list[str]:
        # Whoever made the calls need not be allowed to write into the ledger: the agent is, for every tenant.
        principal = Principal("", _SUBJECT, tenant, frozenset({"operator"}))
        request = pb.RecordUsageRequest(usages=usages)
        try:
            with acting_for(principal):
                answer = await self._stub.RecordUsage(request, timeout=_TIMEOUT_S)
        except grpc.RpcError as failed:
            error = remote_error(failed)
            if self._trouble != error.reason:
                self._trouble = error.reason
                _log.warning("the ledger takes no usage: %s (%s)", error.message, error.reason)
            raise LedgerAway(error.reason) from failed
        if self._trouble:
            self._trouble = ""
            _log.info("the ledger takes usage again")
        return [outcome.error.message for outcome in answer.outcomes]


def after(start: datetime, end: datetime) -> datetime:
    """Return *end*, or a moment after *start* where it is not: a usage takes time."""
    return max(end, start + _LEAST)


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
