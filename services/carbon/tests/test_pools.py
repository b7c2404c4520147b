"""Capacity pools: nothing above the capacity, no deadline missed, nothing refused that could be kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aegis_carbon.domain.errors import InfeasibleJob
from aegis_carbon.domain.job import Interruption, Job, Span
from aegis_carbon.domain.outlook import Outlook
from aegis_carbon.domain.planner import plan
from aegis_carbon.domain.reservations import machine
from aegis_carbon.domain.reservations.errors import PoolFull
from aegis_carbon.domain.reservations.pools import Pool
from aegis_carbon.domain.reservations.pools_claims import Claim, Placement
from aegis_carbon.domain.reservations.reservation import Event, Reservation, State, margin_of
from aegis_carbon.testing.series import MONDAY, series

HOUR = timedelta(hours=1)
KEEP = timedelta(days=7)
PIECES = Interruption()
LIMITED = Interruption(min_chunk=timedelta(minutes=30), max_interruptions=2, resume_overhead=HOUR / 20)


def at(hours: float) -> datetime:
    return MONDAY + hours * HOUR


def forecast(values: Sequence[float]) -> Outlook:
    """Return an outlook of half hours."""
    row = series(list(values), start=MONDAY)
    return Outlook(series=row, low=row.values, high=row.values, errors=np.zeros((0, len(values))), parts=())


GREEN_LATE = forecast(np.linspace(500, 100, 96).tolist())


def claim(
    key: str, start: float, end: float, length: float, how: Interruption | None = None, **more: object
) -> Claim:
    job = Job(earliest=at(start), deadline=at(end), duration=length * HOUR, interruption=how)
    return Claim(key=key, job=job, **more)  # type: ignore[arg-type]


def hours(placement: Placement) -> list[tuple[float, float]]:
    return [((span.start - MONDAY) / HOUR, (span.end - MONDAY) / HOUR) for span in placement.spans]


def test_a_pool_gives_the_cleanest_time_that_is_left() -> None:
    pool = Pool(1)
    first, second = (pool.admit(claim(key, 0, 8, 2, outlooks=(GREEN_LATE,))) for key in ("first", "second"))

    assert [(6, 8)] == hours(first["first"])
    assert [(4, 6)] == hours(second["second"])
    assert () == pool.crowded()


def test_work_that_runs_whole_makes_way_for_work_that_has_no_other_time() -> None:
    pool = Pool(1)
    pool.admit(claim("flexible", 0, 8, 2, outlooks=(GREEN_LATE,)))
    placed = pool.admit(claim("late", 5, 8, 3, outlooks=(GREEN_LATE,)))

    assert {"late": [(5, 8)], "flexible": [(3, 5)]} == {key: hours(item) for key, item in placed.items()}
    assert placed["flexible"].plan is not None
    assert placed["flexible"].plan.spans == placed["flexible"].spans


def test_a_chain_of_jobs_makes_way() -> None:
    pool = Pool(1)
    for key, start, end in (("a", 0, 2), ("b", 1, 3), ("c", 2, 4)):
        pool.admit(claim(key, start, end, 1))
    placed = pool.admit(claim("d", 0, 1, 1))

    assert {"d": [(0, 1)], "a": [(1, 2)], "b": [(2, 3)], "c": [(3, 4)]} == {
        key: hours(item) for key, item in placed.items()
    }


def test_what_runs_stays_where_it_is() -> None:
    running = claim("running", 2, 2, 0, running=Span(at(0), at(2)))
    pool = Pool(1, [running])

    with pytest.raises(PoolFull, match=r"runs 1 at once and has 1 reservations") as caught:
        pool.admit(claim("new", 0, 2, 1))
    assert at(3).isoformat() == caught.value.metadata["earliest_finish"]
    pool.remove("running")
    assert [(0, 1)] == hours(pool.admit(claim("new", 0, 2, 1))["new"])


def test_where_nothing_is_known_it_runs_as_near_to_its_aim_as_it_can() -> None:
    pool = Pool(1)
    placed = [
        pool.admit(claim(key, 0, 8, 2, how, aim=at(aim)))[key]
        for key, aim, how in (("now", 0, None), ("late", 6, None), ("next", 5, None), ("rest", 3, PIECES))
    ]

    assert [[(0, 2)], [(6, 8)], [(4, 6)], [(2, 4)]] == [hours(item) for item in placed]


def test_what_started_late_moves_what_was_to_come_next_and_keeps_its_deadline() -> None:
    late = claim("late", 3, 9, 0, running=Span(at(1), at(3)))
    after = claim("after", 0.5, 8, 2, spans=(Span(at(2), at(4)),))
    hopeless = claim("hopeless", 0.5, 4.5, 2, spans=(Span(at(2), at(4)),))

    repaired = Pool(1, [late, after]).repair()
    assert ({"after": [(3, 5)]}, ()) == (
        {key: hours(item) for key, item in repaired.placements.items()},
        repaired.over,
    )
    pool = Pool(1, [late, hopeless])
    repaired = pool.repair()
    assert ({"hopeless": [(2.5, 4.5)]}, ("hopeless",)) == (
        {key: hours(item) for key, item in repaired.placements.items()},
        repaired.over,
    )
    assert [(4.5, 6.5)] == hours(pool.admit(claim("new", 0.5, 8, 2))["new"])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(50, 900), min_size=48, max_size=48),
    st.integers(0, 20),
    st.floats(0.1, 6),
    st.floats(0, 12),
    st.sampled_from([None, PIECES]),
)
def test_with_all_the_room_there_is_it_is_as_clean_as_the_plan_of_the_job_alone(
    values: list[float], start: int, length: float, slack: float, how: Interruption | None
) -> None:
    asked = claim("a", start / 4, start / 4 + length + slack, length, how, outlooks=(forecast(values),))
    found = Pool(None).admit(asked)["a"].plan

    assert found is not None
    assert plan(asked.outlooks, asked.job).g_per_kwh == pytest.approx(found.g_per_kwh)


Small = tuple[int, int, int]
"""Start, end and length of a job."""


Taken = tuple[int, ...]
"""Jobs that run in each hour."""


def every_schedule(before: set[Taken], job: Small, capacity: int) -> set[Taken]:
    """Return what is taken in every schedule of one job more, in whole hours."""
    start, end, length = job
    return {
        more
        for taken in before
        for chosen in combinations(range(start, end), length)
        if max(more := tuple(count + (hour in chosen) for hour, count in enumerate(taken))) <= capacity
    }


def earliest_end(before: set[Taken], job: Small, capacity: int) -> int:
    """Return the earliest hour by which a job can end, over every schedule of the others."""
    start, _, length = job
    free = ([hour for hour in range(start, 20) if taken[hour : hour + 1] < (capacity,)] for taken in before)
    return min(hours_free[length - 1] for hours_free in free) + 1


SMALL = st.tuples(st.integers(0, 4), st.integers(1, 5), st.integers(1, 3)).map(
    lambda job: (job[0], min(5, job[0] + max(job[1], job[2])), min(job[2], 5 - job[0]))
)


@settings(max_examples=60, deadline=None)
@given(st.lists(SMALL, min_size=1, max_size=7), st.integers(1, 2))
def test_work_in_pieces_is_accepted_if_and_only_if_a_schedule_exists(
    asked: list[Small], capacity: int
) -> None:
    pool = Pool(capacity)
    held: set[Taken] = {(0,) * 5}
    for number, asked_for in enumerate(asked):
        more = every_schedule(held, asked_for, capacity)
        new = claim(str(number), *asked_for, PIECES)
        if not more:
            with pytest.raises(PoolFull) as refused:
                pool.admit(new)
            told = refused.value.metadata
            late = datetime.fromisoformat(told["earliest_finish"]) - at(
                earliest_end(held, asked_for, capacity)
            )
            assert timedelta(0) <= late <= timedelta(minutes=1)
            job = replace(new.job, deadline=datetime.fromisoformat(told["deadline"]))
            pool.admit(replace(new, job=replace(job, deadline=job.deadline - margin_of(job))))
            break
        pool.admit(new)
        held = more
    assert () == pool.crowded()


@dataclass
class Service:
    """A pool as a service keeps it: reservations, the clock, and what is heard of the holders."""

    capacity: int
    now: datetime = MONDAY
    items: dict[str, Reservation] = field(default_factory=dict)
    made: int = 0
    outlook: Outlook = GREEN_LATE

    @property
    def open(self) -> list[Reservation]:
        return [item for item in self.items.values() if item.open]

    def pool(self) -> Pool:
        return Pool(
            self.capacity, [Claim.of(item, now=self.now, outlooks=(self.outlook,)) for item in self.open]
        )

    def put(self, placements: dict[str, Placement]) -> None:
        for key, placement in placements.items():
            self.items[key] = replace(self.items[key], spans=placement.spans, plan=placement.plan)

    def add(self, wait: float, length: float, slack: float, how: Interruption | None) -> None:
        self.made += 1
        job = Job(
            earliest=self.now + wait * HOUR,
            deadline=self.now + (wait + length + slack) * HOUR,
            duration=length * HOUR,
            interruption=how,
        )
        item = Reservation(
            tenant="acme",
            id=str(self.made),
            zones=("DE",),
            duration=job.duration,
            earliest=job.earliest,
            deadline=job.deadline,
            created=self.now,
            margin=margin_of(job),
            interruption=how,
        )
        try:
            placements = self.pool().admit(Claim.of(item, now=self.now, outlooks=(self.outlook,)))
        except InfeasibleJob:
            return
        self.items[item.member] = item
        self.put(placements)

    def go_on(self, until: datetime) -> None:
        """Let time pass; everything that is due is done in its moment."""
        while self.open and (due := min(item.due for item in self.open)) <= until:
            self.now = max(self.now, due)
            for item in self.open:
                if (changed := machine.due(item, now=self.now, keep=KEEP)) is not None:
                    self.items[item.member] = changed
            self.check()
        self.now = until

    def end(self, number: int, event: Event) -> None:
        item = self.open[number % len(self.open)] if self.open else None
        if item is None or item.state is not State.RUNNING:
            return
        changed = machine.reported(
            item, event, token=item.token, holder="", at=self.now, work_done=None, now=self.now, keep=KEEP
        )
        assert changed is not None
        self.items[item.member] = changed

    def cancel(self, number: int) -> None:
        if self.open:
            item = self.open[number % len(self.open)]
            gone = machine.cancelled(item, now=self.now, keep=KEEP)
            assert gone is not None
            self.items[item.member] = gone

    def replan(self, level: int) -> None:
        self.outlook = forecast(np.roll(np.linspace(500, 100, 120), level).tolist())
        pool = self.pool()
        for item in self.open:
            if (found := pool.replace(item.member, (self.outlook,))) is not None:
                pool.place(item.member, found)
                self.put({item.member: found})

    def check(self) -> None:
        """Capacity and deadlines hold, now and in all that is planned."""
        assert () == self.pool().crowded()
        for item in self.open:
            assert item.spans
            assert item.spans[-1].end <= item.last_end
            work = sum((span.end - span.start for span in item.spans), timedelta(0))
            done = item.done if item.running_since is None else item.done - item.overhead
            overheads = (
                item.interruption.resume_overhead * (len(item.spans) - 1) if item.interruption else HOUR * 0
            )
            assert work == item.duration - done + overheads + (
                item.overhead if not item.running_since else HOUR * 0
            )


HALVES = st.integers(0, 12).map(lambda number: number / 2)
STEPS = st.one_of(
    st.tuples(
        st.just("add"),
        HALVES,
        HALVES.map(lambda x: x / 2 + 0.25),
        HALVES,
        st.sampled_from([None, PIECES, LIMITED]),
    ),
    st.tuples(st.just("go_on"), st.floats(0.01, 3)),
    st.tuples(st.just("end"), st.integers(0, 9), st.just(Event.FINISHED)),
    st.tuples(st.just("cancel"), st.integers(0, 9)),
    st.tuples(st.just("replan"), st.integers(0, 95)),
)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3), st.lists(STEPS, min_size=8, max_size=30))
def test_whatever_comes_capacity_and_every_accepted_deadline_are_kept(
    capacity: int, steps: list[tuple[object, ...]]
) -> None:
    service = Service(capacity)
    for name, *told in steps:
        if name == "go_on":
            service.go_on(service.now + told[0] * HOUR)  # type: ignore[operator]
        else:
            getattr(service, str(name))(*told)
        service.check()
    service.go_on(service.now + 40 * HOUR)

    assert [] == service.open
    assert all(item.ended is not None and item.ended <= item.deadline for item in service.items.values())
