"""Which agents there are, and how far each of them is with a change: told through Redis."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

import redis.asyncio

from aegis_agent.adapters.replicas.living import LIFE, Living, text
from aegis_agent.domain.replicas import ReplicaState, ReplicaStatus
from aegis_common.background import Every, ended
from aegis_common.clock import Clock, utc_now
from aegis_common.redis_listening import REDIS_AWAY, heard, listen

SCHEMA_VERSION: Final = 1
INDEX: Final = "agent:roster"
PREFIX: Final = "agent:roster:"
REPORTS: Final = "agent:change:"
CHANNEL: Final = "agent:changes"
_RENEW: Final = timedelta(seconds=1)
_POLL_S: Final = 0.05
_KEEP_REPORTS_S: Final = 60
_MAX_UNSENT: Final = 1000
_LATE: Final = "it has not taken the change over yet"
_UNTOLD: Final = "it could not be told of the change, and finds out by itself within a minute"
_log: Final = logging.getLogger(__name__)


class Roster:
    """The agents that share a Redis; see `Replicas`.

    Args:
        client: Redis; it is closed with this.
        name: Name of this process, for people.
        address: `host:port` where other replicas reach it, or empty.
        clock: Present time.
    """

    def __init__(
        self, client: redis.asyncio.Redis, *, name: str, address: str = "", clock: Clock = utc_now
    ) -> None:
        self._client = client
        self._id = secrets.token_hex(8)
        self._living = Living(client, index=INDEX, prefix=PREFIX, own=self._id)
        self._own = ReplicaStatus(replica=name, address=address)
        self._record = _record(self._own, clock())
        self._listeners: list[Callable[[], None]] = []
        self._unsent: dict[str, str] = {}
        self._away = False
        self._whole_at = 0.0

    def listen(self, listener: Callable[[], None]) -> None:
        self._listeners.append(listener)

    @asynccontextmanager
    async def joined(self) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            await self._renew()
            await stack.enter_async_context(Every(_RENEW, self._renew, name="roster"))
            listening = asyncio.create_task(
                listen(self._client, self._follow, lost=self._note), name="roster news"
            )
            stack.push_async_callback(ended, listening)
            yield
        try:
            await self._living.leave()
        except REDIS_AWAY:
            _log.info("redis is away; this replica leaves the roster in %g s", LIFE.total_seconds())

    async def close(self) -> None:
        await self._client.aclose()

    async def report(self, faults: Mapping[str, str]) -> None:
        self._unsent.update(faults)
        while len(self._unsent) > _MAX_UNSENT:
            del self._unsent[next(iter(self._unsent))]
        try:
            await self._send()
        except REDIS_AWAY as error:  # it is sent with the next sign of life
            self._note(error)

    async def settled(self, change: str, *, within: timedelta) -> list[ReplicaStatus]:
        found: list[ReplicaStatus] = []
        now = asyncio.get_running_loop().time
        until = now() + within.total_seconds()
        try:
            async with asyncio.timeout_at(until):
                await asyncio.sleep(self._whole_at - now())
                await self._client.publish(CHANNEL, change)
                found = await self._others(change)
                # The clock is looked at, too: redis-py may lose the cancellation that ends the block.
                while now() < until and any(item.state is ReplicaState.LAGGING for item in found):
                    await asyncio.sleep(_POLL_S)
                    found = await self._others(change)
        except TimeoutError:
            found = found or [_unknown("Redis has not answered in the time that was left")]
        except REDIS_AWAY as error:
            self._note(error)
            found = [_unknown(f"Redis does not answer ({type(error).__name__})")]
        return [self._own, *found]

    async def _others(self, change: str) -> list[ReplicaStatus]:
        members = await self._living.others()
        told = await self._client.hgetall(REPORTS + change) if members and change else {}
        reports = {text(replica): text(report) for replica, report in told.items()}
        found = [_status(record, reports.get(id_), told=bool(change)) for id_, record in members.items()]
        return sorted(found, key=lambda status: (status.replica, status.address))

    async def _renew(self) -> None:
        try:
            await self._living.tell(self._record)
            await self._send()
        except REDIS_AWAY as error:
            self._note(error)
        else:
            self._away = False

    async def _send(self) -> None:
        unsent, self._unsent = self._unsent, {}
        if not unsent:
            return
        try:
            async with self._client.pipeline(transaction=False) as pipe:
                for change, fault in unsent.items():
                    report = json.dumps({"schema_version": SCHEMA_VERSION, "fault": fault})
                    pipe.hset(REPORTS + change, self._id, report)
                    pipe.expire(REPORTS + change, _KEEP_REPORTS_S)
                await pipe.execute()
        except REDIS_AWAY:
            self._unsent = unsent | self._unsent
            raise

    async def _follow(self, pubsub: Any) -> None:
        await pubsub.subscribe(CHANNEL)
        self._pass_on()  # what was announced before was not heard
        async for message in heard(pubsub):
            if message is not None and message["type"] == "message":
                self._pass_on()

    def _pass_on(self) -> None:
        for listener in self._listeners:
            listener()

    def _note(self, error: BaseException) -> None:
        if not self._away:
            _log.warning("redis is away: other replicas are not known: %s", error)
        self._away = True
        # By then, if Redis is back, every other replica has said again that it is there.
        self._whole_at = asyncio.get_running_loop().time() + 2 * _RENEW.total_seconds()


def _record(own: ReplicaStatus, now: datetime) -> str:
    return json.dumps(
        {
            "schema_version": SCHEMA_VERSION,
            "replica": own.replica,
            "address": own.address,
            "start_time": now.isoformat(),
        }
    )


def _status(record: str, report: str | None, *, told: bool) -> ReplicaStatus:
    """Return how far a replica is, by its record and its report on the change."""
    about = _read(record)
    status = ReplicaStatus(replica=str(about.get("replica", "")), address=str(about.get("address", "")))
    if report is None:
        return replace(status, state=ReplicaState.LAGGING, message=_LATE if told else _UNTOLD)
    fault = str(_read(report).get("fault", "what it reports cannot be read by this release"))
    return replace(status, state=ReplicaState.REFUSED, message=fault) if fault else status


def _read(record: str) -> Mapping[str, Any]:
    """Return a record of this release, or nothing for one that cannot be read."""
    try:
        found = json.loads(record)
    except ValueError:
        return {}
    known = isinstance(found, dict) and found.get("schema_version") == SCHEMA_VERSION
    return found if known else {}


def _unknown(why: str) -> ReplicaStatus:
    message = f"{why}: other replicas are not known now, and take the change over by themselves"
    return ReplicaStatus(replica="", state=ReplicaState.UNKNOWN, message=message)
