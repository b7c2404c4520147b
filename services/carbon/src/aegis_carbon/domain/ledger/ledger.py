"""Records usage, and states what it emitted: at once, and anew when better intensities are there."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from aegis_carbon.domain.catalog import Zone, ZoneCatalog
from aegis_carbon.domain.errors import UnknownZone
from aegis_carbon.domain.ledger.emissions import Evidence
from aegis_carbon.domain.ledger.entry import ACTUALS, GAP_FILLED, RECORDED, Entry, state
from aegis_carbon.domain.ledger.errors import UnknownUsage, UsageIdReused
from aegis_carbon.domain.ledger.sources import EvidenceSource
from aegis_carbon.domain.ledger.store import LedgerObserver, LedgerStore, Place
from aegis_carbon.domain.ledger.usage import PowerModel, Usage
from aegis_common.clock import Clock
from aegis_common.errors import AegisError

OUT_HOURS: Final = 2
"""Measured values have come out after so long, as a rule."""
REVISED_HOURS: Final = 25
"""Measured values may change for so long after they came out; an entry is stated anew then, the last time."""
GIVE_UP_DAYS: Final = 14
"""What is still unknown after so long stays unknown."""
_MOST_DUE: Final = 100
_WITHIN_S: Final = 10.0
_log = logging.getLogger(__name__)


class Ledger:
    """Entries of all tenants.

    Args:
        store: Where they are kept.
        sources: What is known of the grid.
        catalog: The zones.
        power: Turns usage into energy.
        keep: How long an entry is kept; it stays in the daily sums.
        clock: Present time.
        observer: Counts.
    """

    def __init__(
        self,
        store: LedgerStore,
        sources: EvidenceSource,
        catalog: ZoneCatalog,
        *,
        power: PowerModel,
        keep: timedelta,
        clock: Clock,
        observer: LedgerObserver,
    ) -> None:
        self._store = store
        self._sources = sources
        self._catalog = catalog
        self._power = power
        self._keep = keep
        self._clock = clock
        self._observer = observer

    async def record(self, usages: Sequence[Usage], *, within: float) -> list[Entry | AegisError]:
        """Record usages of one tenant; one outcome each, in their order.

        Args:
            usages: An empty zone is the default one. Ids may occur twice.
            within: Seconds that the caller can wait.

        Raises:
            LedgerUnavailable: The store does not answer; nothing of it may be lost by recording again.
        """
        checked = [self._checked(usage) for usage in usages]
        evidence = await self._evidence([u for u in checked if isinstance(u, Usage)], within)
        outcomes: list[Entry | AegisError] = [
            item if isinstance(item, AegisError) else self._stated(item, evidence[item.zone])
            for item in checked
        ]
        entries = [entry for entry in outcomes if isinstance(entry, Entry)]
        found = iter(zip(entries, await self._store.add([(e, self._due(e)) for e in entries]), strict=True))
        return [item if isinstance(item, AegisError) else self._outcome(*next(found)) for item in outcomes]

    async def get(self, tenant: str, usage_id: str) -> Entry:
        """Return an entry.

        Raises:
            UnknownUsage: The tenant has none of that id, or its retention is over.
        """
        found = await self._store.get(tenant, usage_id)
        if found is None:
            raise UnknownUsage(f"no usage {usage_id!r} is in the ledger, or its time is over", usage=usage_id)
        return found

    async def newest(
        self, tenant: str, *, since: datetime | None, until: datetime | None, after: Place | None, most: int
    ) -> list[Entry]:
        """Return entries by the moment at which they ended, the latest first."""
        return await self._store.newest(tenant, since=since, until=until, after=after, most=most)

    async def restate(self) -> None:
        """State anew what is due; replicas that do so at the same moment share the work."""
        while due := await self._store.take_due(self._clock(), most=_MOST_DUE):
            for tenant, usage_id in due:
                entry = await self._store.get(tenant, usage_id)
                if entry is None:
                    await self._store.forget_due(tenant, usage_id)
                else:
                    await self._restated(entry)

    def _checked(self, usage: Usage) -> Usage | AegisError:
        try:
            usage.check(self._clock())
            zone = self._catalog.get(usage.zone)
        except AegisError as error:
            return error
        return replace(usage, zone=zone.id, unit=usage.unit or usage.kind.value)

    async def _evidence(self, usages: Sequence[Usage], within: float) -> dict[str, Evidence]:
        found = {}
        zones = {usage.zone for usage in usages}
        for zone in zones:
            of_zone = [usage for usage in usages if usage.zone == zone]
            start, end = min(u.since for u in of_zone), max(u.end for u in of_zone)
            found[zone] = await self._sources.get(
                self._catalog.get(zone), start, end, within=within / 2 / len(zones)
            )
        return found

    def _stated(self, usage: Usage, evidence: Evidence) -> Entry:
        now, energy = self._clock(), self._power.energy(usage)
        statement, _ = state(usage, energy, evidence, as_of=now, reason=RECORDED)
        return Entry(
            usage=usage,
            energy=energy,
            embodied_g=self._power.embodied(usage),
            statements=(statement,),
            recorded_at=now,
            expires_at=now + self._keep,
        )

    def _outcome(self, entry: Entry, before: Entry | None) -> Entry | AegisError:
        if before is None:
            self._observer.recorded(entry)
            self._observer.saved(entry.now.saved_grams or 0.0)
            return entry
        if before.usage == entry.usage:
            return before
        return UsageIdReused(
            f"usage {entry.usage.id!r} was recorded with another content before; give it an id of its own",
            usage=entry.usage.id,
        )

    def _due(self, entry: Entry) -> datetime | None:
        """Return when to state it anew: when actuals are out, when they are final, then daily."""
        try:
            hour = self._hour(self._catalog.get(entry.usage.zone))
        except UnknownZone:
            return None
        now = self._clock()
        for hours in (OUT_HOURS, REVISED_HOURS):
            if (moment := entry.usage.end + hours * hour) > now:
                return moment
        return now + 24 * hour

    def _hour(self, zone: Zone) -> timedelta:
        return self._sources.day(zone) / 24

    async def _restated(self, entry: Entry) -> None:
        usage, now = entry.usage, self._clock()
        try:
            zone = self._catalog.get(usage.zone)
        except UnknownZone:
            _log.warning("usage %s of tenant %s is final: its zone is gone", usage.id, usage.tenant)
            await self._store.change(entry, replace(entry, revision=entry.revision + 1, final=True), None)
            return
        evidence = await self._sources.get(zone, usage.since, usage.end, within=_WITHIN_S, fresh=True)
        reason = GAP_FILLED if entry.now.unknown_kwh > 0 else ACTUALS
        statement, settled = state(usage, entry.energy, evidence, as_of=now, reason=reason)
        if statement.unknown_kwh > entry.now.unknown_kwh:
            statement, settled = entry.now, False  # a provider that is away now does not unsay what it said
        hour = self._hour(zone)
        final = settled and now >= usage.end + REVISED_HOURS * hour
        final = final or now >= usage.end + GIVE_UP_DAYS * 24 * hour
        after = entry.stated_anew(statement, final=final)
        if after.statements == entry.statements and not final:
            # Nothing new: nothing to write but when to look again.
            await self._store.change(entry, after, self._due(entry))
            return
        if await self._store.change(entry, after, None if final else self._due(after)):
            if after.statements != entry.statements:
                self._observer.stated_anew(reason)
            self._observer.saved((after.now.saved_grams or 0.0) - (entry.now.saved_grams or 0.0))
