"""Jobs of the API server, and the Events about them."""

from __future__ import annotations

import hashlib
from typing import Any, Final
from urllib.parse import quote

from aegis_carbon.controller.adapters.client import MERGE_PATCH, KubeClient, NotFound
from aegis_carbon.controller.adapters.objects import Unreadable, change_of, is_going, job_of, time
from aegis_carbon.controller.domain.job import Job
from aegis_carbon.controller.domain.ports import ApiUnavailable, Change, Changed, Note
from aegis_common.clock import Clock

COMPONENT: Final = "aegis-carbon-controller"
_MOST_MESSAGE: Final = 1000
_NAME_ROOM: Final = 200


def job_path(namespace: str, name: str = "") -> str:
    """Return the path of the Jobs of a namespace, of one of them, or, without a namespace, of all."""
    within = f"namespaces/{quote(namespace, safe='')}/" if namespace else ""
    return f"/apis/batch/v1/{within}jobs" + (f"/{quote(name, safe='')}" if name else "")


class KubeJobs:
    """`Jobs` of an API server.

    Args:
        client: Calls it.
        instance: Name of this process, for Events.
        clock: Present time.
    """

    def __init__(self, client: KubeClient, *, instance: str, clock: Clock) -> None:
        self._client, self._instance, self._clock = client, instance, clock

    async def change(self, job: Job, change: Change) -> Job:
        try:
            answer = await self._client.call(
                "PATCH",
                job_path(job.namespace, job.name),
                query={"fieldManager": COMPONENT},
                body=change_of(job, change),
                content_type=MERGE_PATCH,
            )
            return job_of(answer)
        except NotFound as error:
            raise Changed(f"Job {job.namespace}/{job.name} is gone") from error
        except Unreadable as error:
            raise ApiUnavailable(f"the API server answered a change with something else: {error}") from error

    async def read(self, namespace: str, name: str, uid: str) -> Job | None:
        try:
            found = await self._client.call("GET", job_path(namespace, name))
            if is_going(found):
                return None
            job = job_of(found)
        except NotFound:
            return None
        except Unreadable as error:
            raise ApiUnavailable(f"the API server answered with something else: {error}") from error
        return job if job.uid == uid else None

    async def tell(self, job: Job, note: Note) -> None:
        path = f"/api/v1/namespaces/{quote(job.namespace, safe='')}/events"
        name = _event_name(job, note)
        try:
            await self._client.call("POST", path, body=self._event(job, note, name))
        except Changed:
            await self._count_up(f"{path}/{name}")
        except NotFound as error:
            raise ApiUnavailable(f"the namespace of the Event is gone: {error.message}") from error

    def _event(self, job: Job, note: Note, name: str) -> dict[str, Any]:
        now = time(self._clock())
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"namespace": job.namespace, "name": name},
            "involvedObject": {
                "apiVersion": "batch/v1",
                "kind": "Job",
                "namespace": job.namespace,
                "name": job.name,
                "uid": job.uid,
                "resourceVersion": job.version,
            },
            "type": "Warning" if note.warning else "Normal",
            "reason": note.reason,
            "message": note.message[:_MOST_MESSAGE],
            "source": {"component": COMPONENT},
            "reportingComponent": COMPONENT,
            "reportingInstance": self._instance,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }

    async def _count_up(self, path: str) -> None:
        """The same was told before, by whichever controller: it counts once more."""
        try:
            event = await self._client.call("GET", path)
            count = int(event.get("count") or 1) + 1
            version = event["metadata"]["resourceVersion"]
            body = {
                "metadata": {"resourceVersion": version},
                "count": count,
                "lastTimestamp": time(self._clock()),
            }
            await self._client.call("PATCH", path, body=body, content_type=MERGE_PATCH)
        except (Changed, NotFound, KeyError, TypeError, ValueError) as error:
            raise ApiUnavailable(f"the Event could not be counted up: {error}") from error


def _event_name(job: Job, note: Note) -> str:
    """Return a name that the same note about the same Job always has."""
    told = "\0".join((job.uid, note.reason, note.message))
    return f"{job.name[:_NAME_ROOM].rstrip('.-')}.{hashlib.sha256(told.encode()).hexdigest()[:16]}"
