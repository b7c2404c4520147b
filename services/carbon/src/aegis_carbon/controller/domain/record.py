"""What the controller has done with a Job, kept in an annotation of the Job, in the change that did it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from aegis_carbon.domain.job_wish import PREFIX, WISHES

NAME: Final = "reservation"
RECORD: Final = PREFIX + NAME
SCHEMA_VERSION: Final = 1
NO_TIME: Final = timedelta(0)


class Phase(StrEnum):
    """Where a Job stands.

    WAITING: suspended until its first start. RUNNING: started. SUSPENDED: suspended after a start.
    RELEASED: it is no more ours to suspend or to resume.
    """

    WAITING = "waiting"
    RUNNING = "running"
    SUSPENDED = "suspended"
    RELEASED = "released"


HELD: Final = frozenset({Phase.WAITING, Phase.SUSPENDED})


@dataclass(frozen=True, slots=True)
class Record:
    """What was done last.

    Attributes:
        wish: Digest of the annotations that were followed.
        since: When the phase began (UTC).
        token: Token of the last signal that was acted on.
        start_token: Token of the reservation's first start.
        reservation: Resource name of the reservation; empty: there is none.
        latest: The reservation's latest start, as last known.
        worked: Time that it ran before this phase.
        stops: How often it was suspended after a start.
        whole: It runs to the end, whatever comes.
        found_suspended: It was created suspended, and not by us.
    """

    wish: str
    phase: Phase
    since: datetime
    token: int = 0
    start_token: int = 1
    reservation: str = ""
    latest: datetime | None = None
    worked: timedelta = NO_TIME
    stops: int = 0
    whole: bool = False
    found_suspended: bool = False

    @property
    def held(self) -> bool:
        """Whether we keep it suspended."""
        return self.phase in HELD

    def written(self) -> str:
        """Return the text of the annotation."""
        values: dict[str, Any] = {
            "schemaVersion": SCHEMA_VERSION,
            "wish": self.wish,
            "phase": self.phase.value,
            "since": self.since.isoformat(),
            "token": self.token,
            "startToken": self.start_token,
            "reservation": self.reservation,
            "latestStart": self.latest.isoformat() if self.latest else None,
            "workedSeconds": self.worked.total_seconds(),
            "stops": self.stops,
            "whole": self.whole,
            "foundSuspended": self.found_suspended,
        }
        return json.dumps({key: value for key, value in values.items() if value or key in _ALWAYS})


_ALWAYS: Final = frozenset({"schemaVersion", "wish", "phase", "since", "token"})


def record_of(annotations: Mapping[str, str]) -> Record | None:
    """Read the record of a Job; None where there is none, or none that this release can read."""
    try:
        values = json.loads(annotations[RECORD])
        if values["schemaVersion"] != SCHEMA_VERSION:
            return None
        latest = values.get("latestStart")
        return Record(
            wish=str(values["wish"]),
            phase=Phase(values["phase"]),
            since=_moment(values["since"]),
            token=int(values["token"]),
            start_token=int(values.get("startToken", 1)),
            reservation=str(values.get("reservation", "")),
            latest=None if latest is None else _moment(latest),
            worked=timedelta(seconds=float(values.get("workedSeconds", 0))),
            stops=int(values.get("stops", 0)),
            whole=bool(values.get("whole", False)),
            found_suspended=bool(values.get("foundSuspended", False)),
        )
    except (KeyError, ValueError, TypeError, OverflowError):
        return None


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(text)
    return moment


def digest(annotations: Mapping[str, str]) -> str:
    """Return what tells one wish from another; part of the id of its reservation."""
    wished = [(name, annotations.get(PREFIX + name, "").strip()) for name in sorted(WISHES)]
    return hashlib.sha256(json.dumps(wished).encode()).hexdigest()[:12]
