"""What the owner of a Job is told, each with what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from aegis_carbon.controller.domain.ports import Note
from aegis_carbon.controller.domain.reservations import Refused
from aegis_carbon.domain.job_wish import PREFIX

_REFUSALS: Final = {
    "INFEASIBLE_JOB": "Infeasible",
    "INVALID_ARGUMENT": "BadAnnotation",
    "UNKNOWN_CAPACITY_POOL": "BadAnnotation",
    "UNKNOWN_ZONE": "BadAnnotation",
}


def _at(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def waiting(latest: datetime, starts: datetime | None = None) -> Note:
    planned = f" until {_at(starts)} by the present plan" if starts is not None else ""
    return Note(
        "WaitingForCleanPower",
        f"It waits for cleaner power{planned}, and starts by {_at(latest)} whatever comes.",
    )


def wish_changed() -> Note:
    return Note("WishChanged", "Its annotations have changed: it is planned anew.")


def begun(why: str, *, again: bool) -> Note:
    return Note(
        "Resumed" if again else "Started", f"It {'goes on' if again else 'starts'}: {why or 'told to'}."
    )


def suspended(why: str, latest: datetime) -> Note:
    return Note("Suspended", f"It pauses: {why or 'told to'}. It goes on by {_at(latest)} whatever comes.")


def deadline_near(deadline: datetime, *, by_itself: bool = False) -> Note:
    alone = " The carbon service had said nothing." if by_itself else ""
    return Note("DeadlineNear", f"It runs from now to the end, to be done by {_at(deadline)}.{alone}")


def deadline_missed(deadline: datetime, duration: timedelta) -> Note:
    return Note(
        "DeadlineMissed",
        f"It still runs after its deadline {_at(deadline)}: it takes longer than the {duration} of "
        f"{PREFIX}duration, or its pods were late.",
        warning=True,
    )


def no_slack(deadline: datetime) -> Note:
    return Note("NoSlack", f"It has to run at once to end by {_at(deadline)}: it is not suspended.")


def already_running() -> Note:
    return Note(
        "AlreadyRunning",
        "It runs already and may not be interrupted, so that it is left alone. To let the next one wait, "
        f'create it with spec.suspend: true, or annotate it {PREFIX}interruptible: "true".',
    )


def suspended_elsewhere() -> Note:
    return Note(
        "SuspendedByAnother",
        "Somebody else has suspended it: it is left so, at its deadline too. Resume it to let it run.",
        warning=True,
    )


def resumed_elsewhere() -> Note:
    return Note("ResumedByAnother", "Somebody else has resumed it: it runs from now to the end.")


def managed_elsewhere(who: str) -> Note:
    return Note(
        "ManagedByAnother",
        f"{who} decides when it runs; the annotations {PREFIX}* have no effect.",
        warning=True,
    )


def taken_back() -> Note:
    return Note("WishTakenBack", f"The annotations {PREFIX}* are gone: it is left as without them.")


def reservation_ended(why: str) -> Note:
    return Note(
        "ReservationEnded", f"It starts now, because its reservation has ended: {why or 'no reason given'}."
    )


def bad_annotation(message: str) -> Note:
    return Note("BadAnnotation", f"{message}. It runs as without annotations.", warning=True)


def unknown(names: Sequence[str]) -> Note:
    return Note(
        "UnknownAnnotation",
        f"{', '.join(names)}: there is no such annotation; it has no effect.",
        warning=True,
    )


def namespace_not_mapped(namespace: str) -> Note:
    return Note(
        "NamespaceNotMapped",
        f"Namespace {namespace} has no tenant, so that it runs as without annotations; "
        "map it with AEGIS_CONTROLLER_NAMESPACES.",
        warning=True,
    )


def refused(refusal: Refused) -> Note:
    reason = _REFUSALS.get(refusal.cause, "Refused")
    return Note(reason, f"It runs at once: {refusal.message} ({refusal.cause}).", warning=True)


def carbon_unavailable(trouble: str) -> Note:
    why = trouble or "it did not answer in time"
    return Note(
        "CarbonUnavailable", f"It runs without a reservation, because there is none: {why}.", warning=True
    )
