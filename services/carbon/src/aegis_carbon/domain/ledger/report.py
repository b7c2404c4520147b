"""Reports: the daily sums of the ledger, added up by groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Final

from aegis_carbon.domain.intensity import Signal
from aegis_carbon.domain.ledger.entry import Cell
from aegis_carbon.domain.ledger.store import LedgerStore
from aegis_common.errors import InvalidArgument

LONGEST: Final = timedelta(days=3 * 366)
USUAL: Final = timedelta(days=30)
_MOMENT: Final = timedelta(microseconds=1)


class Dimension(StrEnum):
    TENANT = "tenant"
    TOOL = "tool"
    MODEL = "model"
    RUN = "run"
    ZONE = "zone"
    DAY = "day"
    KIND = "kind"


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What a report is about.

    Attributes:
        by: What rows are told apart by; signals and units always are.
        first: First day.
        last: Last day.
        tenants: Whose usage; None for everyone's.
    """

    by: tuple[Dimension, ...]
    first: date
    last: date
    tenant: str | None


def days_of(since: datetime | None, until: datetime | None, *, now: datetime) -> tuple[date, date]:
    """Return the first and the last day of a report from *since* to *until*.

    Raises:
        InvalidArgument: They are in the wrong order, or more than 3 years apart.
    """
    end = until or now + _MOMENT
    start = since or end - USUAL
    if not start < end:
        raise InvalidArgument("since is not before until", violations={"since": "is not before until"})
    if end - start > LONGEST:
        raise InvalidArgument("a report is about 3 years at most", violations={"since": "is too early"})
    return start.date(), (end - _MOMENT).date()


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The sums of one group; what it is grouped by has a value in `group`.

    Attributes:
        amounts: As in `Entry.amounts`, added up.
    """

    group: dict[Dimension, str]
    signal: Signal
    unit: str
    amounts: dict[str, float]

    @property
    def grams(self) -> float | None:
        """Emissions of the energy whose intensity is known; None when none is."""
        return self.amounts["grams"] if self.amounts["known"] else None

    @property
    def embodied_g(self) -> float | None:
        return None if self.amounts["embodied_unknown"] else self.amounts["embodied"]

    @property
    def sci(self) -> float | None:
        """Grams per unit: ((E x I) + M) per R; None while some intensity is not known."""
        if self.grams is None or self.amounts["unknown"]:
            return None
        return (self.grams + (self.embodied_g or 0.0)) / self.amounts["units"]

    @property
    def saved_g(self) -> float | None:
        return self.amounts["saved"] if self.amounts["compared"] else None

    @property
    def measured_share(self) -> float:
        kwh = self.amounts["kwh"]
        return min(1.0, self.amounts["measured_kwh"] / kwh) if kwh else 0.0

    @property
    def key(self) -> str:
        """Sorts rows, and tells one from another."""
        return "\x00".join((*self.group.values(), self.signal.value, self.unit))


async def report(store: LedgerStore, query: Query) -> list[Row]:
    """Return the rows of *query*, in order of what they are grouped by."""
    rows: dict[tuple[str, ...], Row] = {}
    tenants = await store.tenants() if query.tenant is None else [query.tenant]
    for tenant in tenants:
        async for day, sums in store.sums(tenant, query.first, query.last):
            for cell, amounts in sums.items():
                group = _group(query.by, tenant, day, cell)
                key = (*group.values(), cell.signal.value, cell.unit)
                row = rows.setdefault(
                    key,
                    Row(group=group, signal=cell.signal, unit=cell.unit, amounts=dict.fromkeys(amounts, 0.0)),
                )
                for name, amount in amounts.items():
                    row.amounts[name] = row.amounts.get(name, 0.0) + amount
    return sorted(rows.values(), key=lambda row: row.key)


def _group(by: Sequence[Dimension], tenant: str, day: str, cell: Cell) -> dict[Dimension, str]:
    values = {
        Dimension.TENANT: tenant,
        Dimension.TOOL: cell.tool,
        Dimension.MODEL: cell.model,
        Dimension.RUN: cell.run,
        Dimension.ZONE: cell.zone,
        Dimension.DAY: day,
        Dimension.KIND: cell.kind.value,
    }
    return {dimension: values[dimension] for dimension in by}
