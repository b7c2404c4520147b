"""An entry of the ledger: a usage, its energy, and every statement of what it emitted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, NamedTuple

from aegis_carbon.domain.intensity import Signal
from aegis_carbon.domain.ledger.emissions import Emissions, Evidence, IntensityKind, emissions
from aegis_carbon.domain.ledger.usage import Energy, Estimate, Kind, Usage

MOST_STATEMENTS: Final = 20
RECORDED: Final = "recorded"
ACTUALS: Final = "actuals"
GAP_FILLED: Final = "gap_filled"
_WORSE_G: Final = -1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What was known of an entry's emissions at one moment; grams are None where nothing is known."""

    as_of: datetime
    reason: str
    grams: Estimate | None
    unknown_kwh: float
    run_now_grams: float | None
    providers: tuple[str, ...]
    signal: Signal
    kind: IntensityKind | None

    @property
    def saved_grams(self) -> float | None:
        """What waiting saved; None unless both sides are known in full."""
        if self.run_now_grams is None or self.grams is None or self.unknown_kwh > 0:
            return None
        return self.run_now_grams - self.grams.value

    def says_the_same(self, other: Statement) -> bool:
        return replace(self, as_of=other.as_of, reason=other.reason) == other


class Cell(NamedTuple):
    """What the daily sums tell apart, beside tenant and day."""

    kind: Kind
    tool: str
    model: str
    run: str
    zone: str
    signal: Signal
    unit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A usage in the ledger.

    Attributes:
        statements: The newest last; of more than `MOST_STATEMENTS`, the first and the last ones.
        revision: Counts changes.
        final: Whether it will not be stated anew.
    """

    usage: Usage
    energy: Energy
    embodied_g: float | None
    statements: tuple[Statement, ...]
    recorded_at: datetime
    expires_at: datetime
    revision: int = 1
    final: bool = False

    @property
    def now(self) -> Statement:
        """The statement that holds."""
        return self.statements[-1]

    @property
    def measured(self) -> bool:
        return self.energy.measured_kwh >= self.energy.kwh.value * (1 - 1e-9)

    @property
    def estimated(self) -> bool:
        return not self.measured or self.now.kind is not IntensityKind.ACTUAL or self.now.unknown_kwh > 0

    @property
    def day(self) -> str:
        """Day (UTC) that it counts for, `YYYY-MM-DD`: that on which it began."""
        return self.usage.start.date().isoformat()

    @property
    def cell(self) -> Cell:
        usage = self.usage
        return Cell(usage.kind, usage.tool, usage.model, usage.run, usage.zone, self.now.signal, usage.unit)

    def amounts(self) -> dict[str, float]:
        """Return what it adds to the sums of its day."""
        stated, kwh = self.now, self.energy.kwh
        grams = stated.grams or Estimate(0.0, 0.0, 0.0)
        saved = stated.saved_grams
        return {
            "entries": 1,
            "units": self.usage.units,
            "kwh": kwh.value,
            "kwh_low": kwh.low,
            "kwh_high": kwh.high,
            "measured_kwh": self.energy.measured_kwh,
            "estimated": float(self.estimated),
            "known": float(stated.grams is not None),
            "grams": grams.value,
            "grams_low": grams.low,
            "grams_high": grams.high,
            "unknown": float(stated.unknown_kwh > 0),
            "unknown_kwh": stated.unknown_kwh,
            "embodied": self.embodied_g or 0.0,
            "embodied_unknown": float(self.embodied_g is None),
            "compared": float(saved is not None),
            "saved": saved or 0.0,
            "worse": float(saved is not None and saved < _WORSE_G),
        }

    def stated_anew(self, statement: Statement, *, final: bool) -> Entry:
        """Return it with another statement, unless that says nothing new."""
        kept = self.statements
        if not statement.says_the_same(self.now):
            kept = (*kept, statement)
        if len(kept) > MOST_STATEMENTS:
            kept = (kept[0], *kept[-(MOST_STATEMENTS - 1) :])
        return replace(self, statements=kept, revision=self.revision + 1, final=final)


def state(
    usage: Usage, energy: Energy, evidence: Evidence, *, as_of: datetime, reason: str
) -> tuple[Statement, bool]:
    """Return what is known of its emissions, and whether all of it rests on the provider's past."""
    found = emissions(energy.kwh, usage.ran, evidence)
    run_now = None if usage.run_now is None else emissions(energy.kwh, [usage.run_now], evidence)
    statement = Statement(
        as_of=as_of,
        reason=reason,
        grams=found.grams,
        unknown_kwh=found.unknown_kwh,
        run_now_grams=_in_full(run_now),
        providers=found.providers,
        signal=evidence.signal,
        kind=found.kind,
    )
    return statement, found.settled and (run_now is None or run_now.settled)


def difference(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Return by how much each amount changed; those that did not are left out."""
    return {name: value - before[name] for name, value in after.items() if value != before[name]}


def _in_full(found: Emissions | None) -> float | None:
    if found is None or found.grams is None or found.unknown_kwh > 0:
        return None
    return found.grams.value
