"""A cluster in memory: Jobs, Events and Leases, and what the API server of Kubernetes answers about them.

The answers have the shapes of a real one: lists and their pages, watches with bookmarks, `Status` objects
with 409 and 410. A Job that is not suspended is started at once, in a change of its own, as by the Job
controller.
"""

from __future__ import annotations

import copy
import re
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

Object = dict[str, Any]

_GROUPS: Final = {"jobs": "batch", "leases": "coordination.k8s.io", "events": ""}
_KINDS: Final = {
    "jobs": ("batch/v1", "Job"),
    "leases": ("coordination.k8s.io/v1", "Lease"),
    "events": ("v1", "Event"),
}
_PATH: Final = re.compile(
    r"/(?:api/v1|apis/batch/v1|apis/coordination\.k8s\.io/v1)(?:/namespaces/([^/]+))?/(jobs|leases|events)(?:/([^/]+))?"
)
_MODIFIED: Final = (
    "the object has been modified; please apply your changes to the latest version and try again"
)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True)
class Request:
    """What was asked."""

    method: str
    path: str
    query: dict[str, str]
    body: Any
    token: str


@dataclass
class _State:
    objects: dict[tuple[str, str, str], Object] = field(default_factory=dict)
    log: list[tuple[int, str, Object]] = field(default_factory=list)
    version: int = 1000
    oldest: int = 1000
    starts: dict[str, int] = field(default_factory=dict)


class KubeCluster:
    """One cluster.

    Attributes:
        requests: What was asked so far.
        refuse: Says, for a request, the status that it fails with; None answers as usual.
        page: Most items of a page of a list.
        runs_jobs: Whether Jobs that are not suspended are started at once.
    """

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.refuse: Callable[[Request], int | None] = lambda _: None
        self.page = 500
        self.runs_jobs = True
        self.stopped: Final = threading.Event()
        self.changed: Final = threading.Condition()
        self._state = _State()
        self._cut = 0

    def create_job(
        self,
        name: str,
        annotations: dict[str, str],
        *,
        namespace: str = "default",
        suspend: bool = False,
        created: datetime | None = None,
        **metadata: Any,
    ) -> str:
        """Create a Job as `kubectl create` does, and return its uid."""
        uid = str(uuid.uuid4())
        at = created.strftime("%Y-%m-%dT%H:%M:%SZ") if created is not None else _now()
        labels = {"batch.kubernetes.io/controller-uid": uid, "batch.kubernetes.io/job-name": name}
        self._store(
            "jobs",
            {
                "apiVersion": "batch/v1",
                "kind": "Job",
                "metadata": {
                    "name": name,
                    "namespace": namespace,
                    "uid": uid,
                    "generation": 1,
                    "creationTimestamp": at,
                    "labels": {**labels, **metadata.pop("labels", {})},
                    "annotations": annotations,
                    **metadata,
                },
                "spec": {
                    "parallelism": 1,
                    "completions": 1,
                    "backoffLimit": 6,
                    "selector": {"matchLabels": {"batch.kubernetes.io/controller-uid": uid}},
                    "template": {"metadata": {"labels": labels}, "spec": {"restartPolicy": "Never"}},
                    "completionMode": "NonIndexed",
                    "suspend": suspend,
                },
                "status": {},
            },
            "ADDED",
        )
        return uid

    def job(self, name: str, namespace: str = "default") -> Object:
        with self.changed:
            return copy.deepcopy(self._state.objects["jobs", namespace, name])

    def edit_job(self, name: str, edit: Callable[[Object], None], *, namespace: str = "default") -> None:
        """Change a Job as somebody else would."""
        item = self.job(name, namespace)
        edit(item)
        self._store("jobs", item, "MODIFIED")

    def suspend_job(self, name: str, suspend: bool, *, namespace: str = "default") -> None:
        def edit(item: Object) -> None:
            item["spec"]["suspend"] = suspend

        self.edit_job(name, edit, namespace=namespace)

    def complete_job(self, name: str, *, namespace: str = "default", failed: bool = False) -> None:
        def edit(item: Object) -> None:
            kind, reason = (
                ("Failed", "BackoffLimitExceeded") if failed else ("Complete", "CompletionsReached")
            )
            conditions = [c for c in item["status"].get("conditions", []) if c["type"] != kind]
            item["status"] = {
                "conditions": [
                    *conditions,
                    {"type": kind, "status": "True", "lastTransitionTime": _now(), "reason": reason},
                ],
                "startTime": item["status"].get("startTime", _now()),
                **({} if failed else {"completionTime": _now(), "succeeded": 1}),
            }

        self.edit_job(name, edit, namespace=namespace)

    def delete_job(self, name: str, namespace: str = "default") -> None:
        with self.changed:
            item = self._state.objects.pop(("jobs", namespace, name))
            item["metadata"]["resourceVersion"] = self._next()
            self._tell("jobs", "DELETED", item)

    def events(self, reason: str = "") -> list[Object]:
        """Return the Events so far, of one reason or of all."""
        with self.changed:
            found = [item for (kind, _, _), item in self._state.objects.items() if kind == "events"]
        return [item for item in found if reason in ("", item["reason"])]

    def starts(self, uid: str) -> int:
        """Return how often a Job was started, or resumed."""
        return self._state.starts.get(uid, 0)

    def compact(self) -> None:
        """Forget the past: a watch from before is answered with 410; those that are open end."""
        with self.changed:
            self._state.version += 1
            self._state.oldest = self._state.version
            self._state.log.clear()
            self._cut += 1
            self.changed.notify_all()

    def cut_watches(self) -> None:
        """End the watches that are open, as a restart of the server does."""
        with self.changed:
            self._cut += 1
            self.changed.notify_all()

    def bookmark(self) -> None:
        """Send every watch a bookmark of the present version."""
        with self.changed:
            self._state.version += 1
            kind = {"kind": "Job", "apiVersion": "batch/v1"}
            meta = {"resourceVersion": str(self._state.version), "creationTimestamp": None}
            self._state.log.append((self._state.version, "BOOKMARK", {**kind, "metadata": meta}))
            self.changed.notify_all()

    def _next(self) -> str:
        self._state.version += 1
        return str(self._state.version)

    def _tell(self, resource: str, kind: str, item: Object) -> None:
        if resource == "jobs":
            self._state.log.append((self._state.version, kind, copy.deepcopy(item)))
        self.changed.notify_all()

    def _store(self, resource: str, item: Object, kind: str) -> Object:
        """Put an object in, as a new version; Jobs are started and stopped as they say."""
        with self.changed:
            meta = item["metadata"]
            key = resource, meta["namespace"], meta["name"]
            before = self._state.objects.get(key)
            if before is not None and before.get("spec") != item.get("spec") and resource == "jobs":
                meta["generation"] = before["metadata"]["generation"] + 1
            meta["resourceVersion"] = self._next()
            self._state.objects[key] = copy.deepcopy(item)
            self._tell(resource, kind, item)
            stored = copy.deepcopy(item)
            if resource == "jobs" and self.runs_jobs:
                self._run(key)
            return stored

    def _run(self, key: tuple[str, str, str]) -> None:
        """Do what the Job controller does."""
        item = self._state.objects[key]
        status, uid = item["status"], item["metadata"]["uid"]
        if any(c["type"] in ("Complete", "Failed") for c in status.get("conditions", [])):
            return
        suspended, active = item["spec"]["suspend"], bool(status.get("startTime"))
        if suspended == (not active) and (active or status):
            return
        condition = {"type": "Suspended", "lastProbeTime": _now(), "lastTransitionTime": _now()}
        if suspended:
            told = {**condition, "status": "True", "reason": "JobSuspended", "message": "Job suspended"}
            item["status"] = {"conditions": [told], "ready": 0, "uncountedTerminatedPods": {}}
        else:
            told = {**condition, "status": "False", "reason": "JobResumed", "message": "Job resumed"}
            again = [told] if status.get("conditions") else []
            item["status"] = {"startTime": _now(), "active": 1, "ready": 0, "conditions": again}
            self._state.starts[uid] = self._state.starts.get(uid, 0) + 1
        item["metadata"]["resourceVersion"] = self._next()
        self._tell("jobs", "MODIFIED", item)

    def answer(self, request: Request) -> tuple[int, Object]:
        """Return status and body for anything but a watch."""
        match = _PATH.fullmatch(request.path)
        if match is None:
            return status(404, "NotFound", "the server could not find the requested resource")
        namespace, resource, name = match.groups()
        with self.changed:
            if request.method == "GET" and name is None:
                return self._list(resource, namespace, request.query)
            if request.method == "POST":
                return self._create(resource, namespace, request.body)
            return self._one(resource, (resource, namespace, name), request)

    def _create(self, resource: str, namespace: str, body: Object) -> tuple[int, Object]:
        name = body["metadata"]["name"]
        if (resource, namespace, name) in self._state.objects:
            return status(409, "AlreadyExists", f'{_full(resource)} "{name}" already exists', resource, name)
        api, kind = _KINDS[resource]
        body = {"apiVersion": api, "kind": kind, **body}
        body["metadata"] = {**body["metadata"], "uid": str(uuid.uuid4()), "creationTimestamp": _now()}
        return 201, self._store(resource, body, "ADDED")

    def _one(self, resource: str, key: tuple[str, str, str], request: Request) -> tuple[int, Object]:
        item, name = self._state.objects.get(key), key[2]
        if item is None:
            return status(404, "NotFound", f'{_full(resource)} "{name}" not found', resource, name)
        if request.method == "GET":
            return 200, copy.deepcopy(item)
        wanted = request.body["metadata"].get("resourceVersion")
        if wanted not in (None, item["metadata"]["resourceVersion"]):
            told = f'Operation cannot be fulfilled on {_full(resource)} "{name}": {_MODIFIED}'
            return status(409, "Conflict", told, resource, name)
        if request.method == "PUT":
            meta = {**item["metadata"], **request.body["metadata"]}
            return 200, self._store(resource, {**item, **request.body, "metadata": meta}, "MODIFIED")
        return 200, self._store(resource, merged(item, request.body), "MODIFIED")

    def _list(self, resource: str, namespace: str | None, query: dict[str, str]) -> tuple[int, Object]:
        found = sorted(
            (
                item
                for (kind, where, _), item in self._state.objects.items()
                if kind == resource and namespace in (None, where)
            ),
            key=lambda item: (item["metadata"]["namespace"], item["metadata"]["name"]),
        )
        first, version = 0, self._state.version
        if "continue" in query:
            first, version = (int(part) for part in query["continue"].split("-"))
            if version < self._state.oldest:
                return status(
                    410, "Expired", "The provided continue parameter is too old to display a consistent list"
                )
        last = first + min(self.page, int(query.get("limit") or self.page))
        meta: Object = {"resourceVersion": str(version)}
        if last < len(found):
            meta |= {"continue": f"{last}-{version}", "remainingItemCount": len(found) - last}
        api, kind = _KINDS[resource]
        items = [
            {k: v for k, v in item.items() if k not in ("kind", "apiVersion")} for item in found[first:last]
        ]
        return 200, {
            "kind": f"{kind}List",
            "apiVersion": api,
            "metadata": meta,
            "items": copy.deepcopy(items),
        }

    def watch(self, request: Request) -> Iterator[Object]:
        """Yield the events after the version that was asked for, until the watches are cut."""
        match = _PATH.fullmatch(request.path)
        namespace = match.group(1) if match is not None else ""
        version, cut = int(request.query["resourceVersion"]), self._cut
        while not self.stopped.is_set():
            with self.changed:
                if version < self._state.oldest:
                    told = f"too old resource version: {version} ({self._state.oldest})"
                    yield {"type": "ERROR", "object": status(410, "Expired", told)[1]}
                    return
                if cut != self._cut:
                    return
                new = [event for event in self._state.log if event[0] > version]
                if not new:
                    self.changed.wait(0.5)
            for number, kind, item in new:
                version = number
                if kind == "BOOKMARK" or namespace in (None, item["metadata"]["namespace"]):
                    yield {"type": kind, "object": item}


def _full(resource: str) -> str:
    return f"{resource}.{_GROUPS[resource]}".rstrip(".")


def merged(item: Any, patch: Any) -> Any:
    """Return *item* with a JSON merge patch (RFC 7386) applied."""
    if not isinstance(patch, dict):
        return patch
    result = dict(item) if isinstance(item, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


def status(code: int, reason: str, message: str, resource: str = "", name: str = "") -> tuple[int, Object]:
    """Return a failure as the API server words it."""
    body: Object = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code,
    }
    if resource:
        body["details"] = {"name": name, "group": _GROUPS[resource], "kind": resource}
    return code, body
