"""Reservations in Redis, under the keys that `reservation_keys` lists."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from aegis_carbon.adapters import reservation_keys as keys
from aegis_carbon.adapters.ledger_scripts import TAKE_DUE
from aegis_carbon.adapters.moments import moment_of, ms
from aegis_carbon.adapters.reservation_records import from_record, to_record
from aegis_carbon.adapters.reservation_scripts import COMMIT, DROP
from aegis_carbon.domain.reservations.errors import ReservationsNotConfigured, UnreadableReservation
from aegis_carbon.domain.reservations.reservation import WAITS, Reservation
from aegis_carbon.domain.reservations.store import Counts, Outcome, Pool, Ref, Request
from aegis_common.durable_redis import DurableRedis
from aegis_common.errors import ConfigurationError

_KEPT: Final = 10
"""Most reservations of a tenant in all, ended ones included, per open one that it may have."""
_log: Final = logging.getLogger(__name__)


class RedisReservations:
    """See `ReservationStore`.

    Args:
        redis: The connection.
        strict: Whether a Redis that may lose writes is refused.
        most_open: Most reservations of a tenant that have not ended.
        look_every: How soon a reservation is looked at for a new plan, after each change and look.
    """

    def __init__(self, redis: DurableRedis, *, strict: bool, most_open: int, look_every: timedelta) -> None:
        self._redis = redis
        self._strict = strict
        self._most_open = most_open
        self._look_every = look_every

    async def request(self, tenant: str, request_id: str) -> Request | None:
        found = await self._run(lambda client: client.get(keys.request(tenant, request_id)))
        if not found:
            return None
        reservation_id, _, digest = found.decode().partition(" ")
        return Request(reservation_id, digest)

    async def get(self, ref: Ref) -> Reservation | None:
        found = await self._run(lambda client: client.hget(keys.item(ref), "record"))
        return from_record(found) if found else None

    async def commit(
        self,
        changes: Sequence[Reservation],
        *,
        now: datetime,
        pool: int | None = None,
        new: str | None = None,
    ) -> Outcome:
        first = changes[0]
        names = [keys.DUE, keys.LOOK, keys.EXPIRY, keys.pool(first.pool), keys.members(first.pool)]
        values: list[Any] = [
            "" if pool is None else pool,
            int(bool(first.pool)),
            keys.NEWS,
            self._most_open,
            _KEPT * self._most_open,
            "" if new is None else f"{first.id} {new}",
        ]
        for item in changes:
            ref = Ref(item.tenant, item.id)
            request = keys.request(item.tenant, item.request_id) if item.request_id else ""
            names += [keys.item(ref), keys.index(item.tenant), keys.open_ids(item.tenant), request]
            look = ms(now + self._look_every) if item.state in WAITS else ""
            expiry = "" if item.expires is None else ms(item.expires)
            values += [item.revision - 1, to_record(item), item.revision, keys.member(ref)]
            values += [item.id, ms(item.due), look, expiry]
        found = await self._run(lambda client: client.eval(COMMIT, len(names), *names, *values))
        return Outcome(found.decode())

    async def newest(self, tenant: str, *, before: str, most: int) -> list[Reservation]:
        highest = f"({before}" if before else "+"
        found = await self._run(
            lambda client: client.zrevrangebylex(keys.index(tenant), highest, "-", start=0, num=most)
        )
        return await self._items([Ref(tenant, name.decode()) for name in found])

    async def pool(self, name: str) -> Pool:
        # The revision is read first: a change in between makes the commit fail.
        revision = await self._run(lambda client: client.get(keys.pool(name)))
        members = await self._run(lambda client: client.smembers(keys.members(name)))
        items = await self._items([keys.ref_of(member) for member in sorted(members)])
        return Pool(int(revision or 0), tuple(item for item in items if item.open))

    async def due(self, now: datetime, *, most: int) -> list[Ref]:
        found = await self._run(
            lambda client: client.zrangebyscore(keys.DUE, "-inf", ms(now), start=0, num=most)
        )
        return [keys.ref_of(member) for member in found]

    async def next_due(self) -> datetime | None:
        found = await self._run(lambda client: client.zrange(keys.DUE, 0, 0, withscores=True))
        return moment_of(found[0][1]) if found else None

    async def take_looks(self, now: datetime, *, most: int) -> list[Ref]:
        values = (ms(now), most, ms(now + self._look_every))
        found = await self._run(lambda client: client.eval(TAKE_DUE, 1, keys.LOOK, *values))
        return [keys.ref_of(member) for member in found]

    async def counts(self) -> Counts:
        async def work(client: Any) -> list[int]:
            async with client.pipeline(transaction=True) as pipe:
                pipe.zcard(keys.LOOK)
                pipe.zcard(keys.DUE)
                return list(await pipe.execute())

        waiting, unfinished = await self._run(work)
        return Counts(waiting=waiting, running=unfinished - waiting)

    async def put_off(self, ref: Ref, until: datetime) -> None:
        async def work(client: Any) -> None:
            for key in (keys.DUE, keys.LOOK):
                await client.zadd(key, {keys.member(ref): ms(until)}, xx=True)

        await self._run(work)

    async def forget(self, ref: Ref) -> None:
        async def work(client: Any) -> None:
            for key in (keys.DUE, keys.LOOK):
                await client.zrem(key, keys.member(ref))

        await self._run(work)

    async def drop_expired(self, now: datetime, *, most: int) -> int:
        found = await self._run(
            lambda client: client.zrangebyscore(keys.EXPIRY, "-inf", ms(now), start=0, num=most)
        )
        for member in found:
            ref = keys.ref_of(member)
            names = (keys.EXPIRY, keys.item(ref), keys.index(ref.tenant))
            await self._run(
                lambda client, names=names, ref=ref: client.eval(
                    DROP, len(names), *names, ms(now), keys.member(ref), ref.id
                )
            )
        return len(found)

    async def _items(self, refs: Sequence[Ref]) -> list[Reservation]:
        if not refs:
            return []

        async def work(client: Any) -> list[Any]:
            async with client.pipeline(transaction=False) as pipe:
                for ref in refs:
                    pipe.hget(keys.item(ref), "record")
                return list(await pipe.execute())

        return [item for found in await self._run(work) if found and (item := _readable(found))]

    async def _run(self, work: Any) -> Any:
        if not self._redis.checked:
            try:
                await self._redis.check(strict=self._strict)
            except ConfigurationError as error:
                raise ReservationsNotConfigured(error.message) from error
        return await self._redis.run(work)


def _readable(record: bytes) -> Reservation | None:
    try:
        return from_record(record)
    except UnreadableReservation as error:
        _log.error("a reservation is left out: %s", error.message)
        return None
