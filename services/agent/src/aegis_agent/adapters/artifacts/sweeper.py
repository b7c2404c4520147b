"""Removes what no artifact needs any more: expired records, and content that no record names."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from typing import Final

from aegis_agent.adapters.artifacts import records
from aegis_agent.adapters.artifacts.records import Entry
from aegis_common.clock import Clock, utc_now
from aegis_common.errors import AegisError
from aegis_common.store.objects import ObjectStore

GRACE: Final = timedelta(minutes=10)
"""How long content has to be seen unnamed before it goes. A record is written well within this time after the
content that it names was stored or looked up, so that one process never takes away what another one needs."""
_STAGED_AGE: Final = timedelta(hours=2)
_log: Final = logging.getLogger(__name__)


class ArtifactSweeper:
    """Sweeps all tenants; several processes may do so at once.

    Args:
        objects: Where artifacts lie.
        clock: Present time.
        grace: See `GRACE`.
    """

    def __init__(self, objects: ObjectStore, *, clock: Clock = utc_now, grace: timedelta = GRACE) -> None:
        self._objects = objects
        self._clock = clock
        self._grace = grace
        self._suspects: dict[str, datetime] = {}

    async def sweep(self) -> None:
        """Go through the tenants once; what fails for one does not keep the others from it.

        Raises:
            StoreUnavailable: The tenants cannot be listed.
        """
        for tenant in await self._objects.tenants():
            try:
                await self._sweep(tenant)
            except AegisError as error:
                _log.warning("artifacts not swept", extra={"tenant": tenant, "error": error.message})

    async def _sweep(self, tenant: str) -> None:
        prefix = records.content_key(tenant)
        contents = await self._objects.entries(prefix)
        named, unclear = await self._sweep_records(tenant)
        now = self._clock()
        seen: set[str] = set()
        for item in contents:
            sha256, _, content = item.key.removeprefix(f"{prefix}/").partition("/")
            if sha256 in unclear or (sha256, content) in named:
                continue
            seen.add(item.key)
            if now - self._suspects.setdefault(item.key, now) >= self._grace <= now - item.modified_at:
                await self._objects.delete(item.key)
        for key in [key for key in self._suspects if key.startswith(f"{prefix}/") and key not in seen]:
            del self._suspects[key]
        await self._objects.remove_staged(f"{tenant}/artifacts", before=now - _STAGED_AGE)

    async def _sweep_records(self, tenant: str) -> tuple[set[tuple[str, str]], set[str]]:
        """Remove expired records; return what content the others name, and the digests of unknown ones."""
        now = self._clock().timestamp()
        named: set[tuple[str, str]] = set()
        unclear: set[str] = set()
        for item in await self._objects.entries(records.records_key(tenant)):
            entry = Entry.parse(item.key)
            if entry is None:  # of a later version, which knows what it names
                unclear.add(item.key.split("/")[-2])
            elif entry.expires <= now:
                await self._objects.delete(item.key)
            else:
                named.add((entry.sha256, entry.content))
        return named, unclear
