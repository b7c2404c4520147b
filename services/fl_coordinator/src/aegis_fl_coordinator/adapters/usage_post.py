"""Brings to the carbon ledger what rounds used: until it has it, and under one id, so that it counts once."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from datetime import timedelta
from typing import Final, Protocol

from aegis.carbon.v1 import ledger_service_pb2 as pb
from aegis_common.clock import Clock
from aegis_common.ledger import BATCH, LedgerAway, after
from aegis_common.rpc.times import timestamp
from aegis_fl_coordinator.domain.ports import RunStore
from aegis_fl_coordinator.domain.rounds import Energy
from aegis_fl_coordinator.domain.usage import RoundUsage

_TOO_OLD: Final = timedelta(days=31)
"""The ledger takes nothing that began earlier."""
_log: Final = logging.getLogger(__name__)


class Ledger(Protocol):
    """Records what work used."""

    async def outcomes(self, tenant: str, usages: Sequence[pb.Usage]) -> list[pb.UsageOutcome]:
        """Record usages; raise `LedgerAway` when none was, as far as is known."""
        ...


class RoundUsagePost:
    """Sends what the store keeps for the ledger, and notes in each round the energy that it answers."""

    def __init__(self, store: RunStore, ledger: Ledger, *, clock: Clock) -> None:
        self._store = store
        self._ledger = ledger
        self._clock = clock

    async def send(self) -> None:
        """Send what there is; what the ledger does not take now stays for the next turn."""
        while usages := self._store.unsent_usages(BATCH):
            by_tenant: defaultdict[str, list[RoundUsage]] = defaultdict(list)
            for usage in usages:
                by_tenant[usage.tenant].append(usage)
            for tenant, found in by_tenant.items():
                if not await self._send(tenant, found):
                    return

    async def _send(self, tenant: str, usages: Sequence[RoundUsage]) -> bool:
        try:
            outcomes = await self._ledger.outcomes(tenant, [_message(usage) for usage in usages])
        except LedgerAway:
            self._drop_old(usages)
            return False
        for usage, outcome in zip(usages, outcomes, strict=True):
            if outcome.HasField("entry"):
                self._store.settle_usage(usage, _energy(outcome.entry))
            else:
                _log.error("the ledger refuses usage %s: %s", usage.usage_id, outcome.error.message)
                self._store.settle_usage(usage, None)
        return True

    def _drop_old(self, usages: Sequence[RoundUsage]) -> None:
        for usage in usages:
            if self._clock() - usage.start > _TOO_OLD:
                _log.error("usage %s was not recorded within 31 days and is dropped", usage.usage_id)
                self._store.settle_usage(usage, None)


def _message(usage: RoundUsage) -> pb.Usage:
    declared = usage.joules is not None
    return pb.Usage(
        id=usage.usage_id,
        kind=pb.USAGE_KIND_ROUND,
        start_time=timestamp(usage.start),
        end_time=timestamp(after(usage.start, usage.end)),
        zone=usage.zone,
        cpu_seconds=usage.cpu_s,
        measured_joules=usage.joules,
        energy_method=(pb.ENERGY_METHOD_DECLARED_BY_USER if declared else pb.ENERGY_METHOD_MODELLED_CPU_TIME),
        units=usage.nodes or 1,
        unit="node round" if usage.nodes else "",
        run_now_start_time=timestamp(usage.run_now),
        run=usage.run_id,
    )


def _energy(entry: pb.UsageEntry) -> Energy:
    last = entry.statements[-1] if entry.statements else None
    grams = last.grams if last is not None and last.HasField("grams") else None
    return Energy(entry.kwh, entry.kwh_low, entry.kwh_high, grams, entry.estimated)
