"""What the ledger asks of its store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Protocol

from aegis_carbon.domain.ledger.entry import Cell, Entry


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page of entries begins: after the entry of this end and id."""

    ended_ms: int
    id: str


Sums = dict[Cell, dict[str, float]]
"""Amounts by cell, of one day."""


class LedgerStore(Protocol):
    """Keeps what it acknowledges, and changes an entry and the sums of its day in one step.

    Each method raises `LedgerUnavailable` while the store does not answer, and `LedgerNotConfigured` where
    there is none.
    """

    async def add(self, entries: list[tuple[Entry, datetime | None]]) -> list[Entry | None]:
        """Add entries, each with the moment at which it is to be stated anew.

        Returns, for each, the entry that was there before under its id; None where it is new.
        """

    async def get(self, tenant: str, usage_id: str) -> Entry | None: ...

    async def change(self, before: Entry, after: Entry, due: datetime | None) -> bool:
        """Put *after* in the place of *before*; False if another was faster, or it has expired."""

    async def take_due(self, now: datetime, *, most: int) -> list[tuple[str, str]]:
        """Return tenants and ids of entries to state anew, and keep others from them for a while."""

    async def forget_due(self, tenant: str, usage_id: str) -> None:
        """Note that an entry that is gone needs no statement."""

    async def newest(
        self, tenant: str, *, since: datetime | None, until: datetime | None, after: Place | None, most: int
    ) -> list[Entry]:
        """Return entries by the moment at which they ended, the latest first."""

    def sums(self, tenant: str, first: date, last: date) -> AsyncIterator[tuple[str, Sums]]:
        """Yield days, `YYYY-MM-DD`, and what was added up on each; empty ones are left out."""
        ...

    async def tenants(self) -> list[str]:
        """Return every tenant that recorded something, in order."""


class LedgerObserver(Protocol):
    """Counts what happens."""

    def recorded(self, entry: Entry) -> None: ...

    def saved(self, grams: float) -> None:
        """Waiting saved so many grams, or more than was stated before; below 0: it made things worse."""

    def stated_anew(self, reason: str) -> None: ...


Amounts = Mapping[str, float]
