"""A job as a stream: how it stands, what happens, one terminal event; from any agent, after any break."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import re
from collections.abc import AsyncIterator, Callable
from typing import Final

from aegis.agent.v1 import job_service_pb2 as pb
from aegis_agent.adapters.jobs import events
from aegis_agent.adapters.jobs.convert import job_message, progress_message, whole_message
from aegis_agent.adapters.jobs.effects import STATE_EVENT
from aegis_agent.adapters.jobs.records import from_record, read_progress
from aegis_agent.adapters.jobs.signals import Signals
from aegis_agent.adapters.jobs.store import RedisJobStore
from aegis_agent.domain.jobs.errors import InvalidResumeToken
from aegis_agent.domain.jobs.job import Job, JobRef
from aegis_common.clock import Clock
from aegis_common.rpc.times import timestamp

_MARGIN_S: Final = 5.0
_LOOK_S: Final = 5.0
_BATCH: Final = 100
_EVENT_ID: Final = re.compile(r"([0-9]{1,20})-([0-9]{1,20})")
_LARGEST: Final = 2**64 - 1


class JobWatcher:
    """Streams jobs. The store is the truth; signals only say when to look."""

    def __init__(self, store: RedisJobStore, signals: Signals, *, clock: Clock) -> None:
        self._store = store
        self._signals = signals
        self._clock = clock

    async def watch(
        self, ref: JobRef, *, resume_token: str, time_remaining: Callable[[], float]
    ) -> AsyncIterator[pb.WatchJobResponse]:
        """Yield the job's events until it has ended, or until the call's time is nearly over.

        Args:
            ref: The job.
            resume_token: Token of the last event seen, or empty.
            time_remaining: Seconds until the call's deadline.

        Raises:
            UnknownJob: There is none.
            InvalidResumeToken: The token is broken or another job's.
        """
        # Of a short deadline half is kept, so that even such a stream ends by `reconnect`.
        margin = min(_MARGIN_S, time_remaining() / 2)
        with self._signals.watching(ref) as news:
            seen = _decode(resume_token, ref) if resume_token else ""
            if not seen or await self._dropped(ref, seen):
                seen = await events.last_id(self._store, ref)
                yield await self._standing(ref, seen)
            while True:
                news.clear()
                batch = await events.read(self._store, ref, after=seen, count=_BATCH)
                ended = False
                for event in batch:
                    seen = event.event_id
                    response, over = self._message(ref, event)
                    ended = ended or over
                    if not over:
                        yield response
                if ended or not batch:
                    stored = await self._store.load_whole(ref)
                    if stored.job.has_ended:
                        yield self._end(ref, seen, whole_message(stored, payload=False), stored.job)
                        return
                left = time_remaining() - margin
                if left <= 0:
                    yield pb.WatchJobResponse(
                        resume_token=_encode(ref, seen),
                        event_time=timestamp(self._clock()),
                        reconnect=pb.JobReconnect(),
                    )
                    return
                if not batch:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(min(_LOOK_S, left)):
                            await news.wait()

    async def _dropped(self, ref: JobRef, seen: str) -> bool:
        """Whether events after that place are no longer there."""
        first = await events.read(self._store, ref, after="0-0", count=1)
        if not first:
            return False
        last = await events.last_id(self._store, ref)
        # Later than the last one: the stream was made anew on a clock that had been set back.
        return not _place(first[0].event_id) <= _place(seen) <= _place(last)

    async def _standing(self, ref: JobRef, seen: str) -> pb.WatchJobResponse:
        stored = await self._store.load_whole(ref)
        return pb.WatchJobResponse(
            resume_token=_encode(ref, seen),
            event_time=timestamp(self._clock()),
            attempt=stored.job.attempt,
            state_change=job_message(stored.job, progress=stored.progress),
        )

    def _message(self, ref: JobRef, event: events.StoredEvent) -> tuple[pb.WatchJobResponse, bool]:
        """Return the event as it is told, and whether it says that the job has ended."""
        made = pb.WatchJobResponse(
            resume_token=_encode(ref, event.event_id),
            event_time=timestamp(event.time),
            attempt=event.attempt,
        )
        if event.kind == STATE_EVENT:
            job = from_record(event.data, 0)
            made.state_change.CopyFrom(job_message(job))
            return made, job.has_ended
        if event.kind == events.PROGRESS:
            progress = read_progress(event.data)
            if progress is not None:
                made.progress.CopyFrom(progress_message(progress))
        elif event.kind == events.LOG:
            level, text = json.loads(event.data)
            made.log.CopyFrom(pb.JobLog(level=level, message=text))
        else:
            made.chunk.CopyFrom(pb.JobChunk.FromString(event.data))
        return made, False

    def _end(self, ref: JobRef, seen: str, end: pb.Job, job: Job) -> pb.WatchJobResponse:
        return pb.WatchJobResponse(
            resume_token=_encode(ref, seen),
            event_time=timestamp(job.ended or self._clock()),
            attempt=job.attempt,
            end=end,
        )


def _place(event_id: str) -> tuple[int, int]:
    """Return what tells which of two events came first.

    Raises:
        ValueError: It is no id of an event.
    """
    found = _EVENT_ID.fullmatch(event_id)
    place = (int(found[1]), int(found[2])) if found else (-1, -1)
    if not found or max(place) > _LARGEST:
        raise ValueError(f"{event_id!r} is no id of an event")
    return place


def _encode(ref: JobRef, event_id: str) -> str:
    text = json.dumps([_digest(ref), event_id], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _decode(token: str, ref: JobRef) -> str:
    try:
        digest, event_id = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        _place(event_id)
    except (ValueError, TypeError) as error:
        raise InvalidResumeToken("resume_token cannot be read; take it from an event") from error
    if digest != _digest(ref):
        raise InvalidResumeToken(f"resume_token is not one of jobs/{ref.job_id}", job=ref.job_id)
    return str(event_id)


def _digest(ref: JobRef) -> str:
    return hashlib.sha256(ref.member.encode()).hexdigest()[:16]
