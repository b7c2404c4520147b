"""Objects of the Kubernetes API, read and written."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from aegis_carbon.controller.domain.election import Lease
from aegis_carbon.controller.domain.job import FIRST_GENERATION, Job
from aegis_carbon.controller.domain.ports import Change
from aegis_carbon.controller.domain.record import RECORD

_OWN_CONTROLLER: Final = "kubernetes.io/job-controller"
_QUEUE: Final = "kueue.x-k8s.io/queue-name"
_ENDS: Final = frozenset({"Complete", "Failed"})


class Unreadable(ValueError):
    """An object lacks what every one of its kind has."""


def job_of(item: Mapping[str, Any]) -> Job:
    """Read a batch/v1 Job.

    Raises:
        Unreadable: It is none.
    """
    try:
        meta, spec, status = item["metadata"], item.get("spec") or {}, item.get("status") or {}
        return Job(
            uid=meta["uid"],
            namespace=meta["namespace"],
            name=meta["name"],
            version=meta["resourceVersion"],
            created=moment(meta["creationTimestamp"]),
            annotations=meta.get("annotations") or {},
            generation=int(meta.get("generation", FIRST_GENERATION)),
            suspended=bool(spec.get("suspend", False)),
            started=bool(status.get("startTime") or status.get("active") or status.get("succeeded")),
            ended=_ended(status),
            managed_by=_managed_by(meta, spec),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Unreadable(f"not a Job: {error!r}") from error


def is_going(item: Mapping[str, Any]) -> bool:
    """Return whether an object is being deleted and only waits for its finalizers."""
    return bool(item.get("metadata", {}).get("deletionTimestamp"))


def _ended(status: Mapping[str, Any]) -> datetime | None:
    for condition in status.get("conditions") or ():
        if condition.get("type") in _ENDS and condition.get("status") == "True":
            return moment(status.get("completionTime") or condition["lastTransitionTime"])
    return None


def _managed_by(meta: Mapping[str, Any], spec: Mapping[str, Any]) -> str:
    """Return who else decides whether a Job is suspended."""
    if (name := spec.get("managedBy") or _OWN_CONTROLLER) != _OWN_CONTROLLER:
        return str(name)
    if queue := (meta.get("labels") or {}).get(_QUEUE):
        return f"Kueue (queue {queue})"
    for owner in meta.get("ownerReferences") or ():
        if owner.get("controller") and owner.get("kind") != "CronJob":
            return f"{owner.get('kind')} {owner.get('name')}"
    return ""


def change_of(job: Job, change: Change) -> dict[str, Any]:
    """Return the merge patch of a change, which fails when *job* is not any more as it was read."""
    record = change.record.written() if change.record is not None else None
    patch: dict[str, Any] = {"metadata": {"resourceVersion": job.version, "annotations": {RECORD: record}}}
    if change.suspend is not None:
        patch["spec"] = {"suspend": change.suspend}
    return patch


def lease_of(item: Mapping[str, Any]) -> Lease:
    """Read a coordination.k8s.io/v1 Lease; what it lacks is as if nobody held it.

    Raises:
        Unreadable: It is none.
    """
    try:
        spec = item.get("spec") or {}
        renewed = moment(spec["renewTime"]) if spec.get("renewTime") else datetime.min.replace(tzinfo=UTC)
        return Lease(
            holder=spec.get("holderIdentity") or "",
            lasts=timedelta(seconds=spec.get("leaseDurationSeconds") or 0),
            acquired=moment(spec["acquireTime"]) if spec.get("acquireTime") else renewed,
            renewed=renewed,
            version=item["metadata"]["resourceVersion"],
            transitions=spec.get("leaseTransitions") or 0,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise Unreadable(f"not a Lease: {error!r}") from error


def lease_body(namespace: str, name: str, lease: Lease) -> dict[str, Any]:
    """Return a Lease to be written in the place of the version that was read."""
    meta = {"namespace": namespace, "name": name}
    if lease.version:
        meta["resourceVersion"] = lease.version
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": meta,
        "spec": {
            "holderIdentity": lease.holder,
            "leaseDurationSeconds": max(1, round(lease.lasts.total_seconds())),
            "acquireTime": micro_time(lease.acquired),
            "renewTime": micro_time(lease.renewed),
            "leaseTransitions": lease.transitions,
        },
    }


def moment(text: str) -> datetime:
    """Read a `Time` or `MicroTime`."""
    read = datetime.fromisoformat(text)
    if read.tzinfo is None:
        raise ValueError(f"{text} has no offset")
    return read.astimezone(UTC)


def time(at: datetime) -> str:
    """Write a `Time`: whole seconds."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def micro_time(at: datetime) -> str:
    """Write a `MicroTime`."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
