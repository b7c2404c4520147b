"""A Job to which is done what the controller decides, and a carbon service for which a test speaks."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final

from aegis_carbon.controller.domain.case import Decision, Known, Memory, Rules
from aegis_carbon.controller.domain.decide import decide
from aegis_carbon.controller.domain.job import Job
from aegis_carbon.controller.domain.record import RECORD, Phase, Record, digest, record_of
from aegis_carbon.controller.domain.reservations import Reservation, State, Told
from aegis_carbon.domain.job_wish import PREFIX
from aegis_common.reservation_holder import Signal

CREATED: Final = datetime(2026, 12, 1, 20, tzinfo=UTC)
HOUR: Final = timedelta(hours=1)
MINUTE: Final = timedelta(minutes=1)
RULES: Final = Rules()


def a_job(*, suspended: bool = True, started: bool = False, generation: int = 1, **annotations: str) -> Job:
    wished = {"deadline": "8h", "duration": "1h", **annotations}
    return Job(
        uid="u",
        namespace="team",
        name="train",
        version="7",
        created=CREATED,
        annotations={PREFIX + name.replace("_", "-"): text for name, text in wished.items() if text},
        generation=generation,
        suspended=suspended,
        started=started,
    )


class Track:
    """Looks at a Job again and again, and does what is decided.

    Attributes:
        known: What the carbon service has said.
        starts: How often it was resumed.
        told: Reasons of its Events.
    """

    def __init__(self, item: Job, known: Known | None = None) -> None:
        self.job, self.known = item, known or Known()
        self.memory: Memory | None = None
        self.now, self.elapsed_s = CREATED, 1000.0
        self.starts = 0
        self.told: list[str] = []

    def look(self, at: datetime | None = None, *, fails: bool = False, tenant: str = "t") -> Decision:
        if at is not None:
            self.elapsed_s += (at - self.now).total_seconds()
            self.now = at
        found = decide(
            self.job,
            self.known,
            self.memory,
            tenant=tenant,
            rules=RULES,
            now=self.now,
            elapsed_s=self.elapsed_s,
        )
        if found.change is not None and fails:
            return found
        self._carry_out(found)
        self.memory = found.memory or self.memory
        self.told += [note.reason for note in found.notes]
        return found

    def _carry_out(self, found: Decision) -> None:
        if found.change is None:
            return
        annotations = {name: text for name, text in self.job.annotations.items() if name != RECORD}
        if found.change.record is not None:
            annotations[RECORD] = found.change.record.written()
        suspend = self.job.suspended if found.change.suspend is None else found.change.suspend
        flipped = suspend != self.job.suspended
        self.starts += flipped and not suspend
        self.job = replace(
            self.job,
            annotations=annotations,
            suspended=suspend,
            started=not suspend and (flipped or self.job.started),
            generation=self.job.generation + flipped,
        )

    def edit(self, **annotations: str | None) -> None:
        changed = {PREFIX + name.replace("_", "-"): text for name, text in annotations.items()}
        merged = {**self.job.annotations, **changed}
        self.job = replace(self.job, annotations={name: text for name, text in merged.items() if text})

    def reserve(
        self,
        state: State = State.WAITING,
        signal: Told | None = None,
        latest: datetime | None = CREATED + 6.5 * HOUR,
    ) -> None:
        self.known = Known(
            Reservation(
                "reservations/r",
                "t",
                "u",
                "team",
                "train",
                digest(self.job.annotations),
                state,
                signal=signal,
                latest_start=latest,
                starts=self.now + 3 * HOUR,
            )
        )

    @property
    def record(self) -> Record:
        found = record_of(self.job.annotations)
        if found is None:
            raise LookupError("it has no record")
        return found

    @property
    def stands(self) -> tuple[Phase, bool]:
        return self.record.phase, self.job.suspended


def a_signal(token: int, kind: Signal, latest: datetime | None = None) -> Told:
    return Told(token, kind, "a planned span begins", latest)
