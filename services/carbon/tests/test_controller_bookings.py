"""What is told the carbon service: each thing once, and nothing by a follower; one failure is one Job's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import pytest

from aegis_carbon.controller.domain.bookings import Bookings
from aegis_carbon.controller.domain.job import Job, JobStore
from aegis_carbon.controller.domain.ports import Change, Note
from aegis_carbon.controller.domain.record import RECORD, Phase, Record, digest
from aegis_carbon.controller.domain.reservations import (
    CarbonUnavailable,
    Event,
    Report,
    Reservation,
    State,
    Wanted,
)
from aegis_carbon.controller.domain.tenants import Tenants
from aegis_carbon.testing.job_track import CREATED, a_job


@dataclass
class Keeper:
    """A keeper of reservations that fails as it is told, and writes down what it hears."""

    items: list[Reservation] = field(default_factory=list)
    fails: set[str] = field(default_factory=set)
    heard: list[tuple[str, Event]] = field(default_factory=list)
    asked: int = 0

    async def open(self, tenant: str) -> Sequence[Reservation]:
        self.asked += 1
        if "list" in self.fails:
            raise CarbonUnavailable("no route to host")
        return [item for item in self.items if item.open]

    async def create(self, wanted: Wanted) -> Reservation:
        raise NotImplementedError

    async def get(self, tenant: str, name: str) -> Reservation | None:
        return next((item for item in self.items if item.name == name), None)

    async def report(self, tenant: str, name: str, report: Report) -> None:
        if name in self.fails:
            raise CarbonUnavailable("INTERNAL")
        self.heard.append((name, report.event))

    async def cancel(self, tenant: str, name: str) -> None:
        raise NotImplementedError


class NoJobs:
    """Jobs that nobody may touch here."""

    async def change(self, job: Job, change: Change) -> Job:
        raise NotImplementedError

    async def read(self, namespace: str, name: str, uid: str) -> Job | None:
        raise NotImplementedError

    async def tell(self, job: Job, note: Note) -> None:
        raise NotImplementedError


class Office:
    def __init__(self, count: int) -> None:
        self.keeper, self.store, self.leads = Keeper(), JobStore([""]), True
        jobs = [self._running(f"job-{number}") for number in range(count)]
        self.store.replace("", jobs)
        self.bookings = self.another()

    def another(self) -> Bookings:
        """Return the bookings of another process."""
        tenants = Tenants({"*": "t"})
        return Bookings(self.keeper, self.store, NoJobs(), tenants=tenants, leading=lambda: self.leads)

    def _running(self, uid: str) -> Job:
        made = replace(a_job(suspended=False, started=True), uid=uid, name=uid)
        name, wish = f"reservations/{uid}", digest(made.annotations)
        record = Record(wish, Phase.RUNNING, CREATED, token=1, reservation=name)
        self.keeper.items.append(Reservation(name, "t", uid, "team", uid, wish, State.RUNNING))
        return replace(made, annotations={**made.annotations, RECORD: record.written()})

    def end(self, uid: str) -> None:
        job = self.store.get(uid)
        assert job is not None
        self.store.update(replace(job, ended=datetime(2026, 12, 2, tzinfo=UTC)))


async def test_what_was_done_is_told_once_by_each_process() -> None:
    office = Office(1)
    for _ in range(3):
        await office.bookings.turn()
    await office.another().turn()
    office.end("job-0")
    await office.bookings.turn()

    name = "reservations/job-0"
    assert [(name, Event.STARTED), (name, Event.STARTED), (name, Event.FINISHED)] == office.keeper.heard


async def test_an_answer_that_fails_for_one_job_holds_up_no_other_one() -> None:
    office = Office(4)
    office.keeper.fails = {"reservations/job-1"}

    await office.bookings.turn()

    assert office.bookings.reachable
    assert {f"reservations/job-{number}" for number in (0, 2, 3)} == {name for name, _ in office.keeper.heard}


@pytest.mark.parametrize("fails", [{"list"}, {f"reservations/job-{number}" for number in range(5)}])
async def test_a_service_that_is_away_is_known_to_every_job_until_it_is_back(fails: set[str]) -> None:
    office = Office(5)
    office.keeper.fails = fails
    await office.bookings.turn()
    job = office.store.get("job-4")
    assert job is not None
    assert (False, True) == (office.bookings.reachable, bool(office.bookings.known(job).trouble))

    office.keeper.fails = set()
    await office.bookings.turn()

    assert office.bookings.reachable
    assert 5 == len(office.keeper.heard)


async def test_a_follower_tells_nothing() -> None:
    office = Office(1)
    office.leads = False

    await office.bookings.turn()

    assert (0, []) == (office.keeper.asked, office.keeper.heard)
