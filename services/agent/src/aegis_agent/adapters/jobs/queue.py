"""The queue as a runner sees it: entries are taken, leases renewed, and expired ones claimed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, cast

from redis.exceptions import ResponseError

from aegis_agent.adapters.jobs import keys, scripts
from aegis_agent.adapters.jobs.store import RedisJobStore, no_group
from aegis_agent.domain.call import Priority
from aegis_agent.domain.jobs.job import Job, JobRef, Phase
from aegis_agent.domain.jobs.shares import plan

LOST: Final = 0
HELD: Final = 1
CANCELLED: Final = 2
_CONSUMER_FORGOTTEN_MS: Final = 3_600_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One entry of a queue, taken.

    Attributes:
        entry: Its id in the stream.
        number: The job's `queue_number` when it was put there.
    """

    priority: Priority
    entry: str
    ref: JobRef
    number: int

    def leads_to(self, job: Job) -> bool:
        """Whether the job still depends on this entry; once it does not, it never will again."""
        waits = job.phase is Phase.QUEUED and job.queue_number == self.number
        return waits or (job.runs and job.entry == self.entry)


class RunnerQueue:
    """The queues, for one runner.

    Args:
        store: The jobs.
        runner: Name of this process; no other has it.
        lease: How long an entry may go without a sign of life.
    """

    def __init__(self, store: RedisJobStore, *, runner: str, lease: timedelta) -> None:
        self._store = store
        self._runner = runner
        self._lease_ms = int(lease.total_seconds() * 1000)
        self._turn = 0

    async def take(self, slots: int) -> list[Entry]:
        """Take at most *slots* entries: the higher class first, with a share for the lower ones."""
        taken: list[Entry] = []
        for classes, count in plan(self._turn, slots):
            left = count
            for priority in classes:
                if left:
                    got = await self._read(priority, left)
                    left -= len(got)
                    taken += got
            self._turn += count - left
            if left:
                break  # every class is empty
        return taken

    async def _read(self, priority: Priority, count: int) -> list[Entry]:
        queue = keys.QUEUES[priority]

        async def work(client: Any) -> Any:
            try:
                return await client.xreadgroup(keys.GROUP, self._runner, {queue: ">"}, count=count)
            except ResponseError as error:
                if not no_group(error):
                    raise
                return None

        answer = await self._store.connection.run(work)
        if answer is None:
            await self._store.prepare()
            return []
        return _entries(priority, answer[0][1] if answer else [])

    async def renew(self, entries: Sequence[Entry]) -> list[int]:
        """Renew the leases of entries; return `HELD`, `LOST` or `CANCELLED` for each."""

        async def work(client: Any) -> list[int]:
            async with client.pipeline(transaction=False) as pipe:
                for item in entries:
                    names = (keys.job(item.ref), keys.QUEUES[item.priority])
                    pipe.eval(scripts.RENEW, 2, *names, self._runner, keys.GROUP, item.entry)
                return cast("list[int]", await pipe.execute())

        return await self._store.connection.run(work) if entries else []

    async def drop(self, entry: Entry) -> None:
        """Take an entry that leads nowhere out of its queue."""
        await self._remove(keys.QUEUES[entry.priority], [entry.entry])

    async def claim_expired(self, count: int) -> list[Entry]:
        """Take over entries whose lease is over; they are this runner's for one lease."""
        claimed: list[Entry] = []
        for priority, queue in keys.QUEUES.items():
            found = await self._claim(queue, count)
            if found is not None:
                gone = [item[0].decode() for item in found if item[0] is not None and not item[1]]
                if gone:
                    await self._remove(queue, gone)
                claimed += _entries(priority, [item for item in found if item[0] is not None and item[1]])
        return claimed

    async def _claim(self, queue: str, count: int) -> list[Any] | None:
        async def work(client: Any) -> Any:
            try:
                return await client.xautoclaim(
                    queue, keys.GROUP, self._runner, min_idle_time=self._lease_ms, count=count
                )
            except ResponseError as error:
                if not no_group(error):
                    raise
                return None

        answer = await self._store.connection.run(work)
        return None if answer is None else list(answer[1])

    async def _remove(self, queue: str, entries: Sequence[str]) -> None:
        async def work(client: Any) -> None:
            async with client.pipeline(transaction=True) as pipe:
                pipe.xack(queue, keys.GROUP, *entries)
                pipe.xdel(queue, *entries)
                await pipe.execute()

        await self._store.connection.run(work)

    async def forget_consumers(self) -> None:
        """Remove runners that hold nothing and have not been seen for an hour."""
        await self._store.prepare()

        async def work(client: Any) -> None:
            for queue in keys.QUEUES.values():
                for item in await client.xinfo_consumers(queue, keys.GROUP):
                    if not item["pending"] and item["idle"] > _CONSUMER_FORGOTTEN_MS:
                        await client.xgroup_delconsumer(queue, keys.GROUP, item["name"])

        await self._store.connection.run(work)

    async def leave(self) -> None:
        """Remove this runner, if it holds nothing any more."""
        await self._store.prepare()

        async def work(client: Any) -> None:
            for queue in keys.QUEUES.values():
                found = await client.xpending_range(queue, keys.GROUP, "-", "+", 1, self._runner)
                if not found:
                    await client.xgroup_delconsumer(queue, keys.GROUP, self._runner)

        await self._store.connection.run(work)


def _entries(priority: Priority, messages: Sequence[Any]) -> list[Entry]:
    return [
        Entry(
            priority=priority,
            entry=entry.decode(),
            ref=JobRef.of_member(fields[b"job"].decode()),
            number=int(fields[b"number"]),
        )
        for entry, fields in messages
    ]
