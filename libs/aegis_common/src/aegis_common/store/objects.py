"""Objects in a folder or an S3 bucket, behind one small interface; every key begins with the tenant."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, Final

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore, S3Store

from aegis_common.store.connect import StoreOptions, connect
from aegis_common.store.errors import InvalidObjectKey, ObjectNotFound, ObjectTooLarge, StoreUnavailable
from aegis_common.store.staged import remove_staged

DEFAULT_MAX_BYTES: Final = 64 << 20
MAX_KEY_LENGTH: Final = 512
_TENANT: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_SEGMENT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_RETRY_AFTER: Final = timedelta(seconds=1)
_PART_BYTES: Final = 1 << 20
_S3_PART_BYTES: Final = 5 << 20  # the least that S3 takes
_PARTS_AT_ONCE: Final = 2
_PIECE_BYTES: Final = 256 << 10


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object as a listing shows it; `modified_at` is when it was written, by the store's clock."""

    key: str
    size_bytes: int
    modified_at: datetime


def object_key(tenant: str, *segments: str) -> str:
    """Return the key `<tenant>/<segment>/...`.

    Raises:
        InvalidObjectKey: A part is not a single segment: it is empty, begins with no letter or digit,
            or holds anything but letters, digits, `.`, `_` and `-` (so neither `/` nor `..` gets in).
    """
    if not _TENANT.fullmatch(tenant):
        raise InvalidObjectKey(f"tenant {tenant!r} is not 1 to 63 of a-z, 0-9 and -", tenant=tenant)
    for segment in segments:
        if not _SEGMENT.fullmatch(segment):
            raise InvalidObjectKey(
                f"{segment!r} cannot be part of an object key: use 1 to 128 letters, digits, '.', '_' "
                "and '-', beginning with a letter or digit",
                segment=segment,
            )
    key = "/".join((tenant, *segments))
    if len(key) > MAX_KEY_LENGTH:
        raise InvalidObjectKey(f"object key is {len(key)} characters; at most {MAX_KEY_LENGTH}", key=key)
    return key


class ObjectStore:
    """Reads and writes objects; safe for concurrent use."""

    def __init__(self, store: LocalStore | S3Store, *, name: str) -> None:
        self._store = store
        self._name = name

    def __repr__(self) -> str:
        return f"ObjectStore({self._name!r})"

    @classmethod
    def open(cls, url: str, *, options: StoreOptions | None = None) -> ObjectStore:
        """Open `file:///folder` (made if absent) or `s3://bucket/prefix`; nothing is sent yet.

        Raises:
            ConfigurationError: The URL or an option is wrong.
        """
        return cls(connect(url, options or StoreOptions()), name=url)

    async def put_if_absent(self, key: str, data: bytes) -> bool:
        """Write *data* unless *key* exists; of several writers at once exactly one gets True.

        Raises:
            InvalidObjectKey: *key* is no key.
            StoreUnavailable: The store does not answer.
        """
        with self._errors(_checked(key)):
            try:
                await obstore.put_async(self._store, key, data, mode="create")
            except AlreadyExistsError:
                return False
        return True

    async def put(self, key: str, data: bytes) -> None:
        """Write *data*, in place of what *key* held.

        Raises:
            InvalidObjectKey: *key* is no key.
            StoreUnavailable: The store does not answer.
        """
        with self._errors(_checked(key)):
            await obstore.put_async(self._store, key, data)

    async def put_file(self, key: str, file: IO[bytes]) -> None:
        """Write all of *file*, in place of what *key* held; only some MiB of it are in memory at once.

        The object is there, whole, when this returns. A process that ends before leaves no object, though
        perhaps parts of one: in a folder `remove_staged` finds them, in a bucket a lifecycle rule
        (AbortIncompleteMultipartUpload) does.

        Raises:
            InvalidObjectKey: *key* is no key.
            StoreUnavailable: The store does not answer.
        """
        await asyncio.to_thread(file.seek, 0)
        part = _S3_PART_BYTES if isinstance(self._store, S3Store) else _PART_BYTES
        with self._errors(_checked(key)):
            await obstore.put_async(self._store, key, file, chunk_size=part, max_concurrency=_PARTS_AT_ONCE)

    async def stream(self, key: str, *, offset: int = 0, limit: int | None = None) -> AsyncIterator[bytes]:
        """Return the bytes of *key* from *offset* on, piece by piece; *limit* of them, or all.

        Args:
            key: The object.
            offset: 0 up to less than its size; at its end nothing is left to be asked for.
            limit: 1 and up.

        Raises:
            ObjectNotFound: There is none.
            InvalidObjectKey: *key* is no key.
            StoreUnavailable: The store does not answer, or *offset* is beyond the end.
        """
        with self._errors(_checked(key), missing=True):
            if limit is not None:
                found = await obstore.get_async(self._store, key, options={"range": (offset, offset + limit)})
            elif offset:
                found = await obstore.get_async(self._store, key, options={"range": {"offset": offset}})
            else:
                found = await obstore.get_async(self._store, key)
            async for piece in found.stream(min_chunk_size=_PIECE_BYTES):
                yield bytes(piece)

    async def get(self, key: str, *, max_bytes: int = DEFAULT_MAX_BYTES) -> bytes:
        """Return the bytes of *key*.

        Raises:
            ObjectNotFound: There is none.
            ObjectTooLarge: It has more than *max_bytes*; nothing was read.
            InvalidObjectKey: *key* is no key.
            StoreUnavailable: The store does not answer.
        """
        with self._errors(_checked(key), missing=True):
            found = await obstore.get_async(self._store, key)
            size = found.meta["size"]
            if size > max_bytes:
                raise ObjectTooLarge(
                    f"object {key} has {size} bytes; at most {max_bytes} are read",
                    key=key, size_bytes=str(size), max_bytes=str(max_bytes),
                )  # fmt: skip
            return bytes(await found.bytes_async())

    async def folders(self, prefix: str) -> list[str]:
        """Return the names of the folders directly below the folder *prefix*, in ascending order.

        Raises:
            InvalidObjectKey: *prefix* is no key.
            StoreUnavailable: The store does not answer.
        """
        with self._errors(_checked(prefix)):
            found = await obstore.list_with_delimiter_async(self._store, prefix=prefix)
        return sorted(path.rstrip("/").rsplit("/", 1)[-1] for path in found["common_prefixes"])

    async def entries(self, prefix: str) -> list[StoredObject]:
        """Return every object below the folder *prefix*, in ascending order of keys.

        Raises:
            InvalidObjectKey: *prefix* is no key.
            StoreUnavailable: The store does not answer.
        """
        with self._errors(_checked(prefix)):
            found = [
                StoredObject(meta["path"], meta["size"], meta["last_modified"])
                async for batch in obstore.list(self._store, prefix=prefix)
                for meta in batch
            ]
        return sorted(found, key=lambda item: item.key)

    async def tenants(self) -> list[str]:
        """Return the tenants that have anything here, in ascending order.

        Raises:
            StoreUnavailable: The store does not answer.
        """
        with self._errors("(all tenants)"):
            found = await obstore.list_with_delimiter_async(self._store)
        names = (path.rstrip("/").rsplit("/", 1)[-1] for path in found["common_prefixes"])
        return sorted(name for name in names if _TENANT.fullmatch(name))

    async def delete(self, key: str) -> None:
        """Remove *key*; a missing one is fine.

        Raises:
            InvalidObjectKey: *key* is no key.
            StoreUnavailable: The store does not answer.
        """
        with self._errors(_checked(key)):
            try:
                await obstore.delete_async(self._store, key)
            except FileNotFoundError as error:
                if _bucket_missing(error):
                    raise

    async def list(self, prefix: str) -> list[str]:
        """Return every key below the folder *prefix*, in ascending order.

        Raises:
            InvalidObjectKey: *prefix* is no key.
            StoreUnavailable: The store does not answer.
        """
        return [item.key for item in await self.entries(prefix)]

    async def remove_staged(self, prefix: str, *, before: datetime) -> int:
        """Remove what writers that were killed before *before* left below the folder *prefix*.

        In a bucket there is nothing to see of them; a lifecycle rule has to abort incomplete uploads.

        Returns:
            How many files were removed.

        Raises:
            InvalidObjectKey: *prefix* is no key.
        """
        _checked(prefix)
        if not isinstance(self._store, LocalStore) or self._store.prefix is None:
            return 0
        return await asyncio.to_thread(remove_staged, Path(self._store.prefix) / prefix, before)

    @contextmanager
    def _errors(self, key: str, *, missing: bool = False) -> Iterator[None]:
        try:
            yield
        except (BaseError, OSError) as error:
            if missing and isinstance(error, FileNotFoundError) and not _bucket_missing(error):
                raise ObjectNotFound(f"object {key} does not exist", key=key) from error
            # The store's own message names hosts and buckets: that is for the log, as the cause.
            raise StoreUnavailable(
                f"the object store did not serve {key}", retry_after=_RETRY_AFTER, key=key
            ) from error


def _bucket_missing(error: BaseException) -> bool:
    # S3 answers 404 for a missing bucket too; "no such object" would be a false answer then
    return "NoSuchBucket" in str(error)


def _checked(key: str) -> str:
    tenant, *segments = key.split("/")
    if not segments:
        raise InvalidObjectKey(f"{key!r} is no object key: it needs a tenant and a name", key=key)
    return object_key(tenant, *segments)
