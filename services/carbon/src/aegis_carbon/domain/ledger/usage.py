"""What one piece of work used, and the energy that this comes to."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import pairwise
from typing import Final

from aegis_common.errors import InvalidArgument

OLDEST: Final = timedelta(days=31)
"""Usage that began longer ago is not taken."""
AHEAD: Final = timedelta(minutes=5)
"""A caller's clock may be ahead of ours by so much."""
JOULES_PER_KWH: Final = 3.6e6
MEASURED_ERROR: Final = 0.05
"""Error of energy counters, as a share: RAPL and NVML agree with meters to some per cent."""
DECLARED_ERROR: Final = 0.2
"""Error that is assumed of energy that a caller names."""


class Kind(StrEnum):
    CALL = "call"
    JOB = "job"
    ROUND = "round"
    RUN = "run"
    COMMAND = "command"


class EnergyMethod(StrEnum):
    MEASURED_RAPL = "measured_rapl"
    MEASURED_NVML = "measured_nvml"
    MODELLED_CPU_TIME = "modelled_cpu_time"
    DECLARED_BY_USER = "declared_by_user"


Span = tuple[datetime, datetime]


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What one piece of work used.

    Attributes:
        id: Unique in its tenant.
        zone: Zone id.
        spans: Times in which it ran, in order, within `start` and `end`; all of it if empty.
        cpu_seconds: Of one core, user and system.
        gpu_joules: Energy of graphics cards, beside all else.
        measured_joules: Energy of all but graphics cards; None: the power model tells.
        method: How the energy is known.
        units: Units of work done; `unit` says of what.
        reserved_cores: Cores held while it ran; 0: those used on average.
        run_now_start: When it could have begun without waiting; None: it did not wait.
    """

    id: str
    tenant: str
    kind: Kind
    start: datetime
    end: datetime
    zone: str
    spans: tuple[Span, ...] = ()
    cpu_seconds: float = 0.0
    memory_gib_hours: float = 0.0
    gpu_joules: float = 0.0
    measured_joules: float | None = None
    method: EnergyMethod = EnergyMethod.MODELLED_CPU_TIME
    units: float = 1.0
    unit: str = ""
    reserved_cores: float = 0.0
    run_now_start: datetime | None = None
    tool: str = ""
    model: str = ""
    run: str = ""
    job: str = ""
    reservation: str = ""

    @property
    def ran(self) -> tuple[Span, ...]:
        """The times in which it ran."""
        return self.spans or ((self.start, self.end),)

    @property
    def worked(self) -> timedelta:
        """How long it ran."""
        return sum((end - start for start, end in self.ran), timedelta(0))

    @property
    def run_now(self) -> Span | None:
        """When it would have run without waiting: as long, in one piece."""
        return None if self.run_now_start is None else (self.run_now_start, self.run_now_start + self.worked)

    @property
    def since(self) -> datetime:
        """The first moment whose intensity matters."""
        return self.start if self.run_now_start is None else min(self.start, self.run_now_start)

    @property
    def core_seconds(self) -> float:
        """Cores held, times seconds."""
        return self.reserved_cores * self.worked.total_seconds() or self.cpu_seconds

    def check(self, now: datetime) -> None:
        """Make sure that it does not contradict itself.

        Raises:
            InvalidArgument: It does; the field is named.
        """
        for field, fault in self._faults(now):
            raise InvalidArgument(f"usage {self.id!r}: {field} {fault}", violations={field: fault})

    def _faults(self, now: datetime) -> list[tuple[str, str]]:
        found = []
        if self.start < now - OLDEST:
            found.append(("start_time", f"is more than {OLDEST.days} days ago"))
        if not self.start < self.end <= now + AHEAD:
            found.append(("end_time", "is not after start_time, or lies in the future"))
        edges = [self.start, *(edge for span in self.spans for edge in span), self.end]
        if any(earlier > later for earlier, later in pairwise(edges)):
            found.append(("spans", "are not in order, or not within start_time and end_time"))
        if self.spans and not self.worked:
            found.append(("spans", "are empty"))
        if self.run_now_start is not None and not self.start - OLDEST <= self.run_now_start <= self.start:
            found.append(("run_now_start_time", f"is after start_time, or {OLDEST.days} days before it"))
        return [*found, *self._method_faults()]

    def _method_faults(self) -> list[tuple[str, str]]:
        told, gpu = self.measured_joules is not None, self.gpu_joules > 0
        fitting = {
            EnergyMethod.MEASURED_RAPL: told,
            EnergyMethod.MEASURED_NVML: told or gpu,
            EnergyMethod.MODELLED_CPU_TIME: not told,
            EnergyMethod.DECLARED_BY_USER: told or gpu,
        }
        if fitting[self.method]:
            return []
        return [
            ("energy_method", f"{self.method.value} does not go with the energy that is, or is not, given")
        ]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its interval."""

    value: float
    low: float
    high: float

    def __add__(self, other: Estimate) -> Estimate:
        return Estimate(self.value + other.value, self.low + other.low, self.high + other.high)

    def times(self, other: Estimate) -> Estimate:
        return Estimate(self.value * other.value, self.low * other.low, self.high * other.high)

    @classmethod
    def within(cls, value: float, error: float) -> Estimate:
        """Return *value* with an error on both sides, as a share."""
        return cls(value, value * (1 - error), value * (1 + error))


@dataclass(frozen=True, slots=True)
class Energy:
    """Energy of a usage, with the overhead of the building.

    Attributes:
        kwh: All of it.
        measured_kwh: The part that was measured.
    """

    kwh: Estimate
    measured_kwh: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerModel:
    """Turns usage into energy: E = PUE x (CPU s x W/core + GiB h x W/GiB + measured and GPU J).

    Attributes:
        pue: Energy of the building per energy of its computers.
        watts_per_core: Of a busy core.
        watts_per_gib: Of memory.
        embodied_g: Emissions of making the hardware, TE of SCI; None where nobody knows.
        lifespan: How long the hardware is used, EL.
        cores: Cores of that hardware, ToR.
    """

    pue: Estimate
    watts_per_core: Estimate
    watts_per_gib: Estimate
    embodied_g: float | None = None
    lifespan: timedelta = timedelta(days=4 * 365)
    cores: int = 1

    def energy(self, usage: Usage) -> Energy:
        """Return the energy of *usage*."""
        measured = usage.method in (EnergyMethod.MEASURED_RAPL, EnergyMethod.MEASURED_NVML)
        error = MEASURED_ERROR if measured else DECLARED_ERROR
        told = Estimate.within((usage.gpu_joules + (usage.measured_joules or 0.0)) / JOULES_PER_KWH, error)
        kwh = told if usage.measured_joules is not None else told + self._modelled(usage)
        overhead = kwh.times(self.pue)
        return Energy(overhead, told.value * self.pue.value if measured else 0.0)

    def embodied(self, usage: Usage) -> float | None:
        """Return its share of making the hardware, in grams: M = TE x TiR/EL x RR/ToR."""
        if self.embodied_g is None:
            return None
        return self.embodied_g * usage.core_seconds / (self.lifespan.total_seconds() * self.cores)

    def _modelled(self, usage: Usage) -> Estimate:
        core_kh = usage.cpu_seconds / JOULES_PER_KWH
        memory_kh = usage.memory_gib_hours / 1000
        return Estimate(core_kh, core_kh, core_kh).times(self.watts_per_core) + Estimate(
            memory_kh, memory_kh, memory_kh
        ).times(self.watts_per_gib)
