"""Metrics of reservations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from aegis_carbon.domain.reservations.reservation import Reservation, State
from aegis_carbon.domain.reservations.store import Counts

_SAVINGS: Final = (-0.5, -0.2, -0.1, 0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1)


class ReservationCounters:
    """Counts signals, new plans, missed deadlines and what plans are expected to save.

    What `counted` was told is of all replicas: take the maximum, not the sum.
    """

    def __init__(self, meter: Meter) -> None:
        self._counts: Counts | None = None
        self._over: dict[str, int] = {}
        self._created = meter.create_counter(
            "carbon_reservations_created", description="Reservations made, by whether the grid was known."
        )
        self._ended = meter.create_counter(
            "carbon_reservations_ended", description="Reservations that ended, by state, told or assumed."
        )
        self._signals = meter.create_counter(
            "carbon_reservation_signals", description="Signals, by kind and reason."
        )
        self._replans = meter.create_counter(
            "carbon_reservation_replans", description="Plans that a new forecast changed."
        )
        self._missed = meter.create_counter(
            "carbon_reservation_deadlines_missed", description="Reservations that ended after their deadline."
        )
        # There from the start: a rule that watches for the first one needs the zero before it.
        self._missed.add(0)
        self._savings = meter.create_histogram(
            "carbon.reservation.expected.saving",
            unit="1",
            description="Share that plans save against running at once, as expected when work starts.",
            explicit_bucket_boundaries_advisory=_SAVINGS,
        )
        meter.create_observable_gauge(
            "carbon.reservations.open",
            [self._open],
            unit="1",
            description="Reservations of all replicas and tenants that have not ended.",
        )
        meter.create_observable_gauge(
            "carbon.reservation.pool.over",
            [self._crowded],
            unit="1",
            description="Reservations that run beyond the capacity of their pool, lest they be late.",
        )

    def changed(self, before: Reservation, after: Reservation) -> None:
        if after.revision == 1:
            self._created.add(1, {"pool": after.pool, "known": after.plan is not None})
        if after.token > before.token and after.signal is not None:
            told = {"kind": after.signal.kind.value, "reason": after.signal.reason.value}
            self._signals.add(1, told)
        if after.replans > before.replans:
            self._replans.add(1)
        if after.started and not before.started and after.plan is not None:
            self._savings.record(after.plan.saving, {"pool": after.pool})
        if before.open and not after.open:
            self._ended.add(1, {"state": after.state.value, "assumed": after.end_assumed})
        self._count_missed(before, after)

    def _count_missed(self, before: Reservation, after: Reservation) -> None:
        if _late(after) and not _late(before):
            self._missed.add(1)

    def counted(self, counts: Counts) -> None:
        """Take how many reservations have not ended."""
        self._counts = counts

    def crowded(self, pool: str, over: int) -> None:
        self._over[pool] = over

    def _open(self, _: CallbackOptions) -> Iterator[Observation]:
        if self._counts is not None:
            yield Observation(self._counts.waiting, {"state": "waiting"})
            yield Observation(self._counts.running, {"state": "running"})

    def _crowded(self, _: CallbackOptions) -> Iterator[Observation]:
        for pool, over in list(self._over.items()):
            yield Observation(over, {"pool": pool})


def _late(item: Reservation) -> bool:
    # A holder that was never heard of began in time by itself, as its rules say: its end is a guess.
    guessed = item.end_assumed and not item.heard
    return item.state is State.FINISHED and not guessed and (item.ended or item.deadline) > item.deadline
