"""The ledger in Redis: keys of a tenant begin with `carbon:t:TENANT:ledger:`, others with `carbon:ledger:`.

    carbon:t:TENANT:ledger:entry:ID         hash: `record` (JSON), `revision`; where it counts: `day`, `cell`
    carbon:t:TENANT:ledger:index            sorted set of ids by the time of their end
    carbon:t:TENANT:ledger:day:YYYY-MM-DD   hash: `AMOUNT:CELL`, the sums of the day
    carbon:ledger:due                       sorted set TENANT/ID by the time when it is stated anew
    carbon:ledger:tenants                   set of tenants

Scores are milliseconds since 1970 (UTC).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Final

from aegis_carbon.adapters.ledger_records import cell_of, cell_record, from_record, to_record
from aegis_carbon.adapters.ledger_scripts import ADD, CHANGE, TAKE_DUE
from aegis_carbon.adapters.moments import milliseconds, ms
from aegis_carbon.domain.ledger.entry import Entry, difference
from aegis_carbon.domain.ledger.errors import LedgerNotConfigured
from aegis_carbon.domain.ledger.store import Place, Sums
from aegis_common.durable_redis import DurableRedis
from aegis_common.errors import ConfigurationError

OTHER: Final = "(other)"
"""Tool, model and run of what is beyond the most groups of a day."""
_DUE: Final = "carbon:ledger:due"
_TENANTS: Final = "carbon:ledger:tenants"
_PUT_OFF: Final = timedelta(minutes=2)
_DAYS_AT_ONCE: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How much a tenant's ledger may hold.

    Attributes:
        entries: Most entries of a tenant; beyond, the oldest go. They stay in the daily sums.
        cells: Most groups of a day; beyond, tool, model and run are `(other)`.
        days: How long daily sums are kept.
    """

    entries: int = 200_000
    cells: int = 2_000
    days: timedelta = timedelta(days=3 * 366)


class RedisLedger:
    """See `LedgerStore`.

    Args:
        redis: The connection.
        strict: Whether a Redis that may lose writes is refused.
        bounds: How much it may hold.
    """

    def __init__(self, redis: DurableRedis, *, strict: bool, bounds: Bounds) -> None:
        self._redis = redis
        self._strict = strict
        self._bounds = bounds

    async def add(self, entries: list[tuple[Entry, datetime | None]]) -> list[Entry | None]:
        if not entries:
            return []
        await self._ready()

        async def work(client: Any) -> list[Any]:
            async with client.pipeline(transaction=False) as pipe:
                for entry, due in entries:
                    keys, values = self._added(entry, due)
                    pipe.eval(ADD, len(keys), *keys, *values)
                return list(await pipe.execute())

        return [from_record(found) if found else None for found in await self._redis.run(work)]

    async def get(self, tenant: str, usage_id: str) -> Entry | None:
        await self._ready()
        found = await self._redis.run(lambda client: client.hget(_entry(tenant, usage_id), "record"))
        return from_record(found) if found else None

    async def change(self, before: Entry, after: Entry, due: datetime | None) -> bool:
        await self._ready()
        usage = before.usage
        values = [
            before.revision,
            to_record(after),
            after.revision,
            ms(due) if due else "",
            _member(usage.tenant, usage.id),
            *_flat(difference(before.amounts(), after.amounts())),
        ]
        keys = [_entry(usage.tenant, usage.id), _DUE]
        return bool(await self._redis.run(lambda client: client.eval(CHANGE, 2, *keys, *values)))

    async def take_due(self, now: datetime, *, most: int) -> list[tuple[str, str]]:
        await self._ready()
        values = (ms(now), most, ms(now + _PUT_OFF))
        found = await self._redis.run(lambda client: client.eval(TAKE_DUE, 1, _DUE, *values))
        parts = (member.decode().partition("/") for member in found)
        return [(tenant, usage_id) for tenant, _, usage_id in parts]

    async def forget_due(self, tenant: str, usage_id: str) -> None:
        await self._redis.run(lambda client: client.zrem(_DUE, _member(tenant, usage_id)))

    async def newest(
        self, tenant: str, *, since: datetime | None, until: datetime | None, after: Place | None, most: int
    ) -> list[Entry]:
        await self._ready()
        found: list[Entry] = []
        low = ms(since) if since else "-inf"
        high = f"({ms(until)}" if until else "+inf"
        if after is not None:
            high = str(after.ended_ms)
        offset = 0
        while len(found) < most:
            page = await self._page(tenant, str(low), high, offset, most + 1)
            if not page:
                break
            offset += len(page)
            rest = [item for item in page if after is None or _comes_after(item, after)]
            found += await self._entries(tenant, [name for name, _ in rest])
        return found[:most]

    async def sums(self, tenant: str, first: date, last: date) -> AsyncIterator[tuple[str, Sums]]:
        await self._ready()
        days = [(first + timedelta(days=number)).isoformat() for number in range((last - first).days + 1)]
        for begin in range(0, len(days), _DAYS_AT_ONCE):
            some = days[begin : begin + _DAYS_AT_ONCE]

            async def work(client: Any, some: list[str] = some) -> list[dict[bytes, bytes]]:
                async with client.pipeline(transaction=False) as pipe:
                    for day in some:
                        pipe.hgetall(_day(tenant, day))
                    return list(await pipe.execute())

            for day, fields in zip(some, await self._redis.run(work), strict=True):
                if fields:
                    yield day, _sums(fields)

    async def tenants(self) -> list[str]:
        await self._ready()
        found = await self._redis.run(lambda client: client.smembers(_TENANTS))
        return sorted(name.decode() for name in found)

    async def _ready(self) -> None:
        if self._redis.checked:
            return
        try:
            await self._redis.check(strict=self._strict)
        except ConfigurationError as error:
            raise LedgerNotConfigured(error.message) from error

    async def _page(
        self, tenant: str, low: str, high: str, offset: int, most: int
    ) -> list[tuple[str, float]]:
        found = await self._redis.run(
            lambda client: client.zrevrangebyscore(
                _index(tenant), high, low, start=offset, num=most, withscores=True
            )
        )
        return [(name.decode(), score) for name, score in found]

    async def _entries(self, tenant: str, ids: list[str]) -> list[Entry]:
        async def work(client: Any) -> list[Any]:
            async with client.pipeline(transaction=False) as pipe:
                for usage_id in ids:
                    pipe.hget(_entry(tenant, usage_id), "record")
                return list(await pipe.execute())

        return [from_record(found) for found in await self._redis.run(work) if found] if ids else []

    def _added(self, entry: Entry, due: datetime | None) -> tuple[list[str], list[Any]]:
        usage, cell = entry.usage, entry.cell
        amounts = entry.amounts()
        keys = [
            _entry(usage.tenant, usage.id),
            _index(usage.tenant),
            _DUE,
            _day(usage.tenant, entry.day),
            _TENANTS,
        ]
        return keys, [
            to_record(entry),
            milliseconds(entry.expires_at - entry.recorded_at),
            ms(usage.end),
            usage.id,
            ms(due) if due else "",
            _member(usage.tenant, usage.id),
            cell_record(cell),
            cell_record(cell._replace(tool=OTHER, model=OTHER, run=OTHER)),
            self._bounds.cells * len(amounts),
            milliseconds(self._bounds.days),
            usage.tenant,
            self._bounds.entries,
            _entry(usage.tenant, ""),
            _member(usage.tenant, ""),
            *_flat(amounts),
        ]


def _sums(fields: dict[bytes, bytes]) -> Sums:
    found: Sums = {}
    for field, amount in fields.items():
        name, _, cell = field.decode().partition(":")
        found.setdefault(cell_of(cell), {})[name] = float(amount)
    return found


def _comes_after(item: tuple[str, float], place: Place) -> bool:
    # Redis orders equal scores by name, here from the last one on.
    name, score = item
    return score < place.ended_ms or name < place.id


def _flat(amounts: dict[str, float]) -> list[str]:
    return [text for name, amount in amounts.items() for text in (name, f"{amount:.17g}")]


def _entry(tenant: str, usage_id: str) -> str:
    return f"carbon:t:{tenant}:ledger:entry:{usage_id}"


def _index(tenant: str) -> str:
    return f"carbon:t:{tenant}:ledger:index"


def _day(tenant: str, day: str) -> str:
    return f"carbon:t:{tenant}:ledger:day:{day}"


def _member(tenant: str, usage_id: str) -> str:
    return f"{tenant}/{usage_id}"
