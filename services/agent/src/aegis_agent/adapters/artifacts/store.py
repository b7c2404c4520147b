"""Artifacts in the object store."""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict, defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from aegis_agent.adapters.artifacts import records
from aegis_agent.adapters.artifacts.records import Entry
from aegis_agent.adapters.artifacts.upload import Upload
from aegis_agent.domain.artifacts import Artifact, ArtifactPolicy, ArtifactQuotaExceeded, UnknownArtifact
from aegis_common.clock import Clock, utc_now
from aegis_common.paging import page
from aegis_common.store.errors import ObjectNotFound
from aegis_common.store.objects import ObjectStore

_KNOWN_RECORDS: Final = 4096
_USAGE_AGE: Final = timedelta(seconds=10)
_MAX_RECORD_BYTES: Final = 16 << 10
_WHOLE_SECOND: Final = timedelta(milliseconds=999)
_READS_AT_ONCE: Final = 16
_LATEST_MS: Final = 10**13


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactFilter:
    """Which artifacts a list shows.

    Attributes:
        media_type: Of this media type, or of this kind (`image/*`); empty for all.
        created_after: Stored then or later; None for all.
        created_before: Stored earlier; None for all.
    """

    media_type: str = ""
    created_after: datetime | None = None
    created_before: datetime | None = None

    def takes(self, entry: Entry) -> bool:
        return (
            entry.kind.startswith(records.kind_of(self.media_type) if self.media_type else "")
            and (self.created_after is None or entry.created >= _milliseconds(self.created_after))
            and (self.created_before is None or entry.created < _milliseconds(self.created_before))
        )


class StoredArtifacts:
    """The artifacts of all tenants; safe for several processes at once.

    Args:
        objects: Where they lie.
        policy: What may be kept.
        spool: Where content goes while it comes in; None means the system's temporary folder.
        clock: Present time.
    """

    def __init__(
        self,
        objects: ObjectStore,
        policy: ArtifactPolicy,
        *,
        spool: Path | None = None,
        clock: Clock = utc_now,
    ) -> None:
        self.policy: Final = policy
        self._objects = objects
        self._spool = spool
        self._clock = clock
        self._records: OrderedDict[str, Artifact] = OrderedDict()
        self._usage: dict[str, tuple[datetime, int]] = {}
        self._reserved: defaultdict[str, int] = defaultdict(int)

    def upload(self, *, media_type: str = "") -> Upload:
        """Begin to receive content, which `keep` stores in the end."""
        return Upload(self.policy, media_type=media_type, folder=self._spool)

    async def find(self, tenant: str, sha256: str) -> Artifact:
        """Return an artifact.

        Raises:
            UnknownArtifact: The tenant has none of that digest.
            RecordUnreadable: Its record is of a version that this one does not know.
            StoreUnavailable: The store does not answer.
        """
        return (await self._best(tenant, sha256))[1]

    async def stream(
        self, tenant: str, sha256: str, *, offset: int = 0, limit: int | None = None
    ) -> AsyncIterator[bytes]:
        """Return the content piece by piece; *offset* lies below the size, *limit* is above 0.

        Raises:
            UnknownArtifact: There is none, or its content has gone.
            StoreUnavailable: The store does not answer.
        """
        entry, _ = await self._best(tenant, sha256)
        key = records.content_key(tenant, sha256, entry.content)
        try:
            async for piece in self._objects.stream(key, offset=offset, limit=limit):
                yield piece
        except ObjectNotFound as error:
            raise UnknownArtifact.named(f"artifacts/{sha256}") from error

    async def keep(
        self,
        tenant: str,
        upload: Upload,
        *,
        filename: str = "",
        retention: timedelta | None = None,
        holder: str = "",
    ) -> Artifact:
        """Store what an upload received. What is there already only lives longer, or for one more *holder*.

        Raises:
            ArtifactQuotaExceeded: The tenant has no room for it.
            RetentionTooLong: *retention* is beyond the maximum.
            StoreUnavailable: The store does not answer.
        """
        try:
            return await self.extend(tenant, upload.sha256, retention=retention, holder=holder)
        except UnknownArtifact:
            pass
        await self.check_room(tenant, upload.size)
        content = secrets.token_hex(8)
        with self._room(tenant, upload.size):
            await self._objects.put_file(records.content_key(tenant, upload.sha256, content), upload.file)
            now = self._clock()
            artifact = Artifact(
                sha256=upload.sha256,
                size_bytes=upload.size,
                media_type=upload.media_type,
                filename=filename,
                created_at=_whole(now, milliseconds=True),
                expires_at=self._expiry(retention),
            )
            await self._write(tenant, artifact, content, holder)
        return artifact

    async def extend(
        self,
        tenant: str,
        sha256: str,
        *,
        retention: timedelta | None = None,
        until: datetime | None = None,
        holder: str = "",
    ) -> Artifact:
        """Let an artifact live for *retention* from now on, or longer if it does already.

        With *until* it lives until then: who asks has a right to that, whatever the policy says. With
        *holder* it lives so long for that one, whoever else lets it go.

        Raises:
            UnknownArtifact: The tenant has none of that digest.
            RetentionTooLong: *retention* is beyond the maximum.
            StoreUnavailable: The store does not answer.
        """
        expires = self._expiry(retention) if until is None else _whole(until + _WHOLE_SECOND)
        entry, artifact = await self._best(tenant, sha256)
        content = records.content_key(tenant, sha256)
        if f"{content}/{entry.content}" not in await self._objects.list(content):
            raise UnknownArtifact.named(artifact.name)  # somebody else emptied the store: send it again
        own = [item for item in await self._entries(tenant, sha256) if item.holder == holder]
        if any(expires.timestamp() <= item.expires for item in own):
            return artifact
        longer = replace(artifact, expires_at=expires)
        newer = await self._write(tenant, longer, entry.content, holder)
        for older in own:
            if older.expires < newer.expires:
                await self._objects.delete(older.key(tenant))
        return max(artifact, longer, key=lambda item: item.expires_at)

    async def delete(self, tenant: str, sha256: str, *, holder: str = "") -> None:
        """Make an artifact unknown at once, its content is swept later; or take one *holder* from it.

        Raises:
            UnknownArtifact: The tenant has none of that digest, or it has no such holder.
            StoreUnavailable: The store does not answer.
        """
        await self._best(tenant, sha256)
        found = [entry for entry in await self._entries(tenant, sha256) if holder in ("", entry.holder)]
        if holder and not found:
            raise UnknownArtifact.named(f"artifacts/{sha256}")
        for entry in found:
            await self._objects.delete(entry.key(tenant))
        self._usage.pop(tenant, None)

    async def page(
        self, tenant: str, wanted: ArtifactFilter, *, size: int, token: str
    ) -> tuple[list[Artifact], str]:
        """Return one page of a tenant's artifacts, newest first, and the token of the next page.

        Raises:
            InvalidPageToken: The token is broken or belongs to another query.
            StoreUnavailable: The store does not answer.
        """
        entries = [entry for entry in (await self._live(tenant)).values() if wanted.takes(entry)]
        found, after = page(
            sorted(entries, key=_newest_first),
            key=_newest_first,
            size=size,
            token=token,
            query=f"ListArtifacts/{tenant}/{wanted}",
        )
        slots = asyncio.Semaphore(_READS_AT_ONCE)

        async def read(entry: Entry) -> Artifact | None:
            try:
                async with slots:
                    return await self._record(tenant, entry)
            except ObjectNotFound:  # removed meanwhile
                return None

        artifacts = await asyncio.gather(*(read(entry) for entry in found))
        return [item for item in artifacts if item], after

    async def check_room(self, tenant: str, size: int) -> None:
        """Refuse *size* bytes more than a tenant may have; what other processes add counts seconds later.

        Raises:
            ArtifactQuotaExceeded: There is no room.
            StoreUnavailable: The store does not answer.
        """
        used = await self._used(tenant) + self._reserved[tenant]
        quota = self.policy.quota_bytes
        if used + size > quota:
            raise ArtifactQuotaExceeded(
                f"the tenant's artifacts have {used} bytes; {size} more are over the quota of {quota}. "
                "Delete some, or wait until they expire",
                used_bytes=str(used),
                size_bytes=str(size),
                quota_bytes=str(quota),
            )

    @contextmanager
    def _room(self, tenant: str, size: int) -> Iterator[None]:
        self._reserved[tenant] += size
        try:
            yield
        finally:
            self._reserved[tenant] -= size
            self._usage.pop(tenant, None)

    async def _used(self, tenant: str) -> int:
        now = self._clock()
        measured, used = self._usage.get(tenant, (None, 0))
        if measured is None or now - measured > _USAGE_AGE:
            used = sum(entry.size for entry in (await self._live(tenant)).values())
            self._usage[tenant] = (now, used)
        return used

    async def _live(self, tenant: str) -> dict[str, Entry]:
        """Return for each digest the record that lives longest."""
        now = self._clock().timestamp()
        best: dict[str, Entry] = {}
        for item in await self._objects.entries(records.records_key(tenant)):
            entry = Entry.parse(item.key)
            if entry and entry.expires > now:
                known = best.get(entry.sha256)
                if known is None or entry.name > known.name:
                    best[entry.sha256] = entry
        return best

    async def _best(self, tenant: str, sha256: str) -> tuple[Entry, Artifact]:
        now = self._clock().timestamp()
        for _ in range(2):  # a list of a folder may miss a record that takes another one's place just then
            live = [entry for entry in await self._entries(tenant, sha256) if entry.expires > now]
            if live:
                entry = max(live, key=lambda item: item.name)
                try:
                    return entry, await self._record(tenant, entry)
                except ObjectNotFound:
                    continue
        raise UnknownArtifact.named(f"artifacts/{sha256}")

    async def _entries(self, tenant: str, sha256: str) -> list[Entry]:
        found = await self._objects.entries(records.records_key(tenant, sha256))
        return [entry for entry in (Entry.parse(item.key) for item in found) if entry]

    async def _record(self, tenant: str, entry: Entry) -> Artifact:
        key = entry.key(tenant)
        known = self._records.get(key)
        if known is None:
            known = records.decode(await self._objects.get(key, max_bytes=_MAX_RECORD_BYTES), key)
            self._remember(key, known)
        return known

    async def _write(self, tenant: str, artifact: Artifact, content: str, holder: str = "") -> Entry:
        entry = Entry.of(artifact, content, holder)
        key = entry.key(tenant)
        await self._objects.put(key, records.encode(artifact, content))
        self._remember(key, artifact)
        return entry

    def _remember(self, key: str, artifact: Artifact) -> None:
        self._records[key] = artifact
        if len(self._records) > _KNOWN_RECORDS:
            self._records.popitem(last=False)

    def _expiry(self, retention: timedelta | None) -> datetime:
        return _whole(self._clock() + self.policy.retention_of(retention) + _WHOLE_SECOND)


def _whole(moment: datetime, *, milliseconds: bool = False) -> datetime:
    """Return *moment* as exactly as the name of a record holds it."""
    kept = moment.microsecond // 1000 * 1000 if milliseconds else 0
    return moment.astimezone(UTC).replace(microsecond=kept)


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _newest_first(entry: Entry) -> str:
    return f"{_LATEST_MS - entry.created:013d}/{entry.sha256}"
