"""What a tool tells while its job runs: written in small batches, read by whoever watches."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from aegis.agent.v1 import job_service_pb2 as pb
from aegis_agent.adapters import parts
from aegis_agent.adapters.jobs import keys, scripts
from aegis_agent.adapters.jobs.effects import MAX_EVENTS
from aegis_agent.adapters.jobs.records import progress_record
from aegis_agent.adapters.jobs.store import RedisJobStore, insist
from aegis_agent.domain.call import Checkpoint, Chunk, Event, LogLine, Progress
from aegis_agent.domain.execution import MAX_COLLECTED_BYTES
from aegis_agent.domain.jobs.errors import JobStoreUnavailable, ResultTooLarge
from aegis_agent.domain.jobs.job import JobRef, plain_text
from aegis_agent.domain.offload import offloaded
from aegis_agent.domain.sizes import size_of

PROGRESS: Final = "progress"
LOG: Final = "log"
CHUNK: Final = "chunk"

_MAX_CHUNK_BYTES: Final = 32 << 10
_MAX_LINE: Final = 2_000
_WAITING: Final = 64
_PAUSE_S: Final = 0.1
_PATIENCE_S: Final = 2.0
"""Longest wait of a tool for a place in the line."""
_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEvent:
    """One event of a job's stream.

    Attributes:
        event_id: Place in the stream.
        kind: `state`, `progress`, `log` or `chunk`.
    """

    event_id: str
    kind: str
    data: bytes
    attempt: int

    @property
    def time(self) -> datetime:
        return datetime.fromtimestamp(int(self.event_id.partition("-")[0]) / 1000, UTC)


class Teller:
    """The sink of one attempt: takes what the tool tells, and writes it while the tool goes on.

    The newest progress replaces one that is not written yet. Log lines and chunks wait in line; while that is
    full, the tool waits, but not for a store that is away: the oldest are dropped then. A checkpoint is on
    disk when the tool goes on.

    Attributes:
        chunks: All items of a streaming tool, which make up its result.
    """

    def __init__(self, store: RedisJobStore, ref: JobRef, *, attempt: int, runner: str) -> None:
        self._store = store
        self._ref = ref
        self._attempt = attempt
        self._runner = runner
        self._progress: Progress | None = None
        self._size = 0
        self._away = False
        self._told = 0
        self.chunks: list[Any] = []
        self._writing = asyncio.Lock()
        self._latest = ""
        self._batch: list[tuple[str, bytes]] = []
        self._lines: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue(_WAITING)
        self._news = asyncio.Event()

    async def take(self, event: Event) -> None:
        """Take one event; the sink of a call."""
        if isinstance(event, Progress):
            self._progress = replace(event, message=plain_text(event.message, _MAX_LINE))
        elif isinstance(event, LogLine):
            line = json.dumps([event.level, plain_text(event.message, _MAX_LINE)])
            await self._queue((LOG, line.encode()))
        elif isinstance(event, Chunk):
            self._collect(event.value)
            await self._queue((CHUNK, await offloaded(_chunk, event.value)))
        elif isinstance(event, Checkpoint):
            await self._save(event.data)
        self._news.set()

    async def _queue(self, line: tuple[str, bytes]) -> None:
        if self._away and self._lines.full():
            self._lines.get_nowait()
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await self._lines.put(line)
        except TimeoutError:
            self._away = True
            await self._queue(line)

    def _collect(self, value: Any) -> None:
        self._size += size_of(value)
        if self._size > MAX_COLLECTED_BYTES:
            raise ResultTooLarge(
                f"the items of the tool are more than {MAX_COLLECTED_BYTES} bytes together",
                size_bytes=str(self._size),
                max_bytes=str(MAX_COLLECTED_BYTES),
            )
        self.chunks.append(value)

    async def _save(self, data: bytes) -> None:
        names = (keys.job(self._ref),)
        about = (self._attempt, self._runner, data, self._ref.tenant)
        await insist(lambda: self._store.eval(scripts.CHECKPOINT, names, *about))

    async def write(self) -> None:
        """Write what was told, until cancelled."""
        while True:
            await self._news.wait()
            self._news.clear()
            try:
                await insist(self._flush)
            except Exception:  # the tool must not wait for a line that nobody can write
                _log.exception("events of a job are not told", extra={"job": self._ref.job_id})
                self._told += len(self._batch)
                self._batch.clear()
            await asyncio.sleep(_PAUSE_S)

    async def finish(self) -> None:
        """Write what is left; give up when the store is away: the result has what counts."""
        try:
            await self._flush()
            while not self._lines.empty():  # more than fits at once, after an outage
                await self._flush()
        except JobStoreUnavailable:
            _log.warning("the last events of a job are not told", extra={"job": self._ref.job_id})

    async def _flush(self) -> None:
        async with self._writing:
            room = max(0, _WAITING - len(self._batch))  # what an outage left may be much already
            self._batch += [self._lines.get_nowait() for _ in range(min(self._lines.qsize(), room))]
            if self._progress is not None and len(self._batch) <= _WAITING:
                self._latest, self._progress = progress_record(self._progress), None
                self._batch.append((PROGRESS, self._latest.encode()))
            if not self._batch:
                return
            names = (keys.job(self._ref), keys.events(self._ref))
            words = [word for line in self._batch for word in line]
            channel = keys.channel(self._ref)
            await self._store.eval(
                *(scripts.TELL, names, self._attempt, self._runner),
                *(self._latest, MAX_EVENTS, channel, self._told, *words),
            )
            self._away = False
            self._told += len(self._batch)
            self._batch.clear()  # kept until now: an outage of the store loses none
            if not self._lines.empty():
                self._news.set()


def _chunk(value: Any) -> bytes:
    made = pb.JobChunk(parts=parts.to_protos(value))
    size = made.ByteSize()
    if size > _MAX_CHUNK_BYTES:
        made = pb.JobChunk(omitted_bytes=size)
    return made.SerializeToString()


async def read(store: RedisJobStore, ref: JobRef, *, after: str, count: int) -> Sequence[StoredEvent]:
    """Return the job's events after that place, oldest first; those that were dropped are missing."""
    rows: Any = await store.connection.run(
        lambda client: client.xrange(keys.events(ref), min=f"({after}", max="+", count=count)
    )
    return [_event(row) for row in rows]


async def last_id(store: RedisJobStore, ref: JobRef) -> str:
    """Return the place of the newest event; `0-0` when there is none."""
    rows: Any = await store.connection.run(lambda client: client.xrevrange(keys.events(ref), count=1))
    return rows[0][0].decode() if rows else "0-0"


def _event(row: Any) -> StoredEvent:
    event_id, fields = row
    return StoredEvent(
        event_id=event_id.decode(),
        kind=fields[b"kind"].decode(),
        data=fields[b"data"],
        attempt=int(fields[b"attempt"]),
    )
