"""The queues as a runner sees them: jobs are taken, leases renewed, and expired ones claimed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, cast

from aegis_agent.adapters.jobs import keys, queue_scripts
from aegis_agent.adapters.jobs.store import RedisJobStore, no_group
from aegis_agent.domain.fair_queue import Weights
from aegis_agent.domain.jobs.job import Job, JobRef, Phase
from aegis_agent.domain.jobs.shares import TURNS
from aegis_agent.domain.rooms import Key, Rooms

LOST: Final = 0
HELD: Final = 1
CANCELLED: Final = 2
_CONSUMER_FORGOTTEN_MS: Final = 3_600_000
_SEEN_MS: Final = 30_000
ANNOUNCE_S: Final = 10.0
"""How often a runner says which tools its process has, in seconds; after three times as long it has none."""
_MOST_HELD: Final = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One job in the hand of a runner.

    Attributes:
        entry: Its id in the stream of running jobs.
        number: The job's `queue_number` when it was taken.
        tool: What the job runs.
    """

    entry: str
    ref: JobRef
    number: int
    tool: str

    def leads_to(self, job: Job) -> bool:
        """Whether the job still depends on this entry; once it does not, it never will again."""
        waits = job.phase is Phase.QUEUED and job.queue_number == self.number
        return waits or (job.runs and job.entry == self.entry)


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What a runner got.

    Attributes:
        held_up: Whether other jobs wait whose tools have no room just now.
    """

    entries: Sequence[Entry]
    held_up: bool


class RunnerQueue:
    """The queues, for one runner; who is served next, `domain.jobs.shares` says.

    Args:
        store: The jobs.
        runner: Name of this process; no other has it.
        lease: How long a job may go without a sign of life of its runner.
        weights: Shares of tenants.
    """

    def __init__(
        self, store: RedisJobStore, *, runner: str, lease: timedelta, weights: Weights | None = None
    ) -> None:
        self._store = store
        self._runner = runner
        self._lease_ms = int(lease.total_seconds() * 1000)
        self._weights = dict(weights or {})

    async def take(self, slots: int, rooms: Rooms | None = None) -> Taken:
        """Take at most *slots* jobs, of tools that have room; None means that all have."""
        wanted = json.dumps(
            {
                "weights": self._weights,
                "turns": [[keys.queue_class(item) for item in turn] for turn in TURNS],
                "seen_ms": 0 if rooms is None else _SEEN_MS,
                **_rooms_record(rooms, slots),
            }
        )
        held_up, *words = await self._store.eval(queue_scripts.TAKE, (), self._runner, slots, wanted)
        rows = [words[place : place + 4] for place in range(0, len(words), 4)]
        entries = [
            _entry(entry, {b"job": job, b"number": number, b"tool": tool})
            for entry, job, number, tool in rows
        ]
        return Taken(entries=entries, held_up=bool(held_up))

    async def announce(self, tools: Iterable[Key]) -> None:
        """Tell the others which tools this process has: they leave their jobs to it."""
        await self._store.eval(queue_scripts.ANNOUNCE, (), *(f"{owner}/{name}" for owner, name in tools))

    async def held(self) -> list[Entry]:
        """Return what this runner has in hand, as the store sees it: it may never have heard of some."""

        async def work(client: Any) -> list[Any]:
            found = await client.xpending_range(
                keys.RUNNING, keys.GROUP, "-", "+", _MOST_HELD, consumername=self._runner
            )
            async with client.pipeline(transaction=False) as pipe:
                for item in found:
                    pipe.xrange(keys.RUNNING, item["message_id"], item["message_id"])
                return cast("list[Any]", await pipe.execute())

        rows = await self._store.connection.run(lambda client: no_group(work(client), otherwise=[]))
        return [_entry(*row[0]) for row in rows if row]

    async def renew(self, entries: Sequence[Entry]) -> list[int]:
        """Renew the leases of entries; return `HELD`, `LOST` or `CANCELLED` for each."""

        async def work(client: Any) -> list[int]:
            async with client.pipeline(transaction=False) as pipe:
                for item in entries:
                    names = (keys.job(item.ref), keys.RUNNING)
                    pipe.eval(queue_scripts.RENEW, 2, *names, self._runner, keys.GROUP, item.entry)
                return cast("list[int]", await pipe.execute())

        return await self._store.connection.run(work) if entries else []

    async def drop(self, entry: Entry) -> None:
        """Remove an entry that leads nowhere."""
        await self._store.eval(queue_scripts.RELEASE, (), entry.entry)

    async def expired(self, count: int) -> list[str]:
        """Return entries whose lease is over, oldest first."""

        async def work(client: Any) -> list[Any]:
            return cast(
                "list[Any]",
                await client.xpending_range(keys.RUNNING, keys.GROUP, "-", "+", count, idle=self._lease_ms),
            )

        found = await self._store.connection.run(lambda client: no_group(work(client), otherwise=[]))
        return [item["message_id"].decode() for item in found]

    async def claim(self, entry: str) -> Entry | None:
        """Take over an entry for one lease; None if it was renewed meanwhile, or is gone."""

        async def work(client: Any) -> list[Any]:
            return cast(
                "list[Any]",
                await client.xclaim(keys.RUNNING, keys.GROUP, self._runner, self._lease_ms, [entry]),
            )

        found = await self._store.connection.run(lambda client: no_group(work(client), otherwise=[]))
        return next((_entry(*row) for row in found if row and row[1]), None)

    async def forget(self) -> None:
        """Forget runners that hold nothing and were not seen for an hour, and tenants that want nothing."""
        await self._store.eval(queue_scripts.FORGET, (), "", _CONSUMER_FORGOTTEN_MS)

    async def leave(self) -> None:
        """Remove this runner, if it holds nothing any more."""
        await self._store.eval(queue_scripts.FORGET, (), self._runner, _CONSUMER_FORGOTTEN_MS)


def _rooms_record(rooms: Rooms | None, slots: int) -> dict[str, Any]:
    known = rooms or Rooms()
    return {
        "rooms": {f"{owner}/{tool}": free for (owner, tool), free in known.of_tool.items()},
        "sharing": {f"{owner}/{tool}": True for owner, tool in known.sharing},
        "shared": known.shared,
        # Of a tool that this process lacks, few at a time are taken to see about them.
        "others": slots if rooms is None else 1,
    }


def _entry(entry: bytes, fields: Mapping[bytes, bytes]) -> Entry:
    return Entry(
        entry=entry.decode(),
        ref=JobRef.of_member(fields[b"job"].decode()),
        number=int(fields[b"number"]),
        tool=fields[b"tool"].decode(),
    )
