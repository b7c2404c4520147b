"""Publisher keys in the object store: records that agents sign, each written once.

<tenant>/publisher-keys/<key id>/enrolled.json
<tenant>/publisher-keys/<key id>/retired.json       where it was retired
<tenant>/publisher-keys/<key id>/compromised.json   where it is compromised
"""

from __future__ import annotations

import asyncio
import base64
import logging
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from aegis_agent.domain.publisher_errors import PublisherKeysDisabled
from aegis_agent.domain.publishers import KeyState, PublisherKey
from aegis_common.clock import Clock, utc_now
from aegis_common.errors import AegisError
from aegis_common.signing import key_id
from aegis_common.store.errors import RecordUnreadable, StoreUnavailable
from aegis_common.store.objects import ObjectStore, object_key
from aegis_common.store.sealed import MAX_SEALED_BYTES, RecordKind, RecordSeal

_FOLDER: Final = "publisher-keys"
_ENROLLED: Final = "enrolled"
_REVOKED: Final = {KeyState.COMPROMISED: "compromised", KeyState.RETIRED: "retired"}  # the first one counts
_ENROLMENT: Final = RecordKind(
    "publisher-key-enrolment",
    fields={"tenant", "key_id", "public_key", "subject", "description", "created_at"},
)
_REVOCATION: Final = RecordKind(
    "publisher-key-revocation", fields={"tenant", "key_id", "state", "by", "revoked_at"}
)
_RECORD: Final = re.compile(rf"{_FOLDER}/[0-9a-f]{{16}}/[a-z]+\.json")
_READS_AT_ONCE: Final = 16
_log: Final = logging.getLogger(__name__)


class StoredPublisherKeys:
    """The `KeyRecords` of the domain.

    A record that this agent cannot verify is logged, and its key counts for nothing. A revocation that it has
    seen once counts until it ends, even if somebody removes the record.

    Args:
        objects: Where the records lie.
        seal: Signs and verifies them; None where the operator has set no key, and then there are none.
        clock: Present time, for records.
    """

    def __init__(self, objects: ObjectStore, seal: RecordSeal | None, *, clock: Clock = utc_now) -> None:
        self._objects = objects
        self._seal = seal
        self._clock = clock
        self._read: dict[str, dict[str, Any] | None] = {}

    @property
    def enabled(self) -> bool:
        return self._seal is not None

    async def keys(self, tenant: str) -> Mapping[str, PublisherKey]:
        """Return all keys of a tenant by id, as they are now.

        Raises:
            PublisherKeysDisabled: There is no seal.
            StoreUnavailable: The store does not answer.
        """
        return _keys(tenant, await self._records(object_key(tenant, _FOLDER)))

    async def enroll(self, tenant: str, public_key: bytes, *, subject: str, description: str) -> PublisherKey:
        wanted = key_id(Ed25519PublicKey.from_public_bytes(public_key))
        record = {
            "tenant": tenant,
            "key_id": wanted,
            "public_key": base64.b64encode(public_key).decode(),
            "subject": subject,
            "description": description,
            "created_at": self._clock().astimezone(UTC).isoformat(),
        }
        await self._write(_ENROLMENT, _ENROLLED, record)
        return await self._key(tenant, wanted)

    async def revoke(self, key: PublisherKey, state: KeyState, *, by: str) -> PublisherKey:
        record = {
            "tenant": key.tenant,
            "key_id": key.key_id,
            "state": state.value,
            "by": by,
            "revoked_at": self._clock().astimezone(UTC).isoformat(),
        }
        await self._write(_REVOCATION, _REVOKED[state], record)
        return await self._key(key.tenant, key.key_id)

    async def _key(self, tenant: str, wanted: str) -> PublisherKey:
        records = await self._records(object_key(tenant, _FOLDER, wanted))
        try:
            return _keys(tenant, records)[wanted]
        except KeyError:
            raise RecordUnreadable(f"the records of key {wanted} cannot be verified", key_id=wanted) from None

    async def _write(self, kind: RecordKind, name: str, record: Mapping[str, Any]) -> None:
        seal = self._sealing()
        key = object_key(str(record["tenant"]), _FOLDER, str(record["key_id"]), f"{name}.json")
        await self._objects.put_if_absent(key, seal.close(kind, record, key=key))

    async def _records(self, prefix: str) -> dict[str, dict[str, Any] | None]:
        """Return the records below *prefix* by key; None stands for one that cannot be verified."""
        self._sealing()
        listed = await self._objects.list(prefix)
        found = [key for key in listed if _RECORD.fullmatch("/".join(key.split("/")[1:]))]
        slots = asyncio.Semaphore(_READS_AT_ONCE)

        async def read(key: str) -> None:
            async with slots:
                self._read[key] = await self._verified(key)

        await asyncio.gather(*(read(key) for key in found if self._read.get(key) is None))
        seen = [key for key in self._read if key.startswith(f"{prefix}/") and not _is_enrolment(key)]
        return {key: self._read[key] for key in (*found, *seen)}

    async def _verified(self, key: str) -> dict[str, Any] | None:
        kind = _ENROLMENT if _is_enrolment(key) else _REVOCATION
        try:
            data = await self._objects.get(key, max_bytes=MAX_SEALED_BYTES)
            return _checked(self._sealing().open(kind, data, key=key), key)
        except StoreUnavailable:
            raise
        except AegisError as error:
            if key not in self._read:
                _log.error("publisher key does not count", extra={"key": key, "error": error.message})
            return None

    def _sealing(self) -> RecordSeal:
        if self._seal is None:
            raise PublisherKeysDisabled
        return self._seal


def _is_enrolment(key: str) -> bool:
    return key.endswith(f"/{_ENROLLED}.json")


def _checked(record: dict[str, Any], key: str) -> dict[str, Any]:
    """Turn what is text in a record into what it means."""
    try:
        for name in ("created_at", "revoked_at"):
            if name in record:
                record[name] = datetime.fromisoformat(record[name])
        if "public_key" in record:
            record["public_key"] = base64.b64decode(record["public_key"], validate=True)
    except (ValueError, TypeError) as error:
        raise RecordUnreadable(f"record {key}: a field has a wrong value", key=key) from error
    return record


def _keys(tenant: str, records: Mapping[str, dict[str, Any] | None]) -> dict[str, PublisherKey]:
    by_key: dict[str, dict[str, dict[str, Any] | None]] = defaultdict(dict)
    for place, record in records.items():
        _, _, folder, name = place.split("/")
        by_key[folder][name.removesuffix(".json")] = record
    found = (_of(tenant, of_key) for of_key in by_key.values())
    return {key.key_id: key for key in found if key is not None}


def _of(tenant: str, records: Mapping[str, dict[str, Any] | None]) -> PublisherKey | None:
    enrolment = records.get(_ENROLLED)
    if enrolment is None or None in records.values():
        return None
    fields = {name: enrolment[name] for name in ("key_id", "public_key", "subject", "description")}
    return PublisherKey(tenant=tenant, created_at=enrolment["created_at"], **fields, **_revoked(records))


def _revoked(records: Mapping[str, Any]) -> dict[str, Any]:
    for state, name in _REVOKED.items():
        if name in records:
            return {
                "state": state,
                "revoked_at": records[name]["revoked_at"],
                "revoked_by": records[name]["by"],
            }
    return {}


def public_keys(keys: Iterable[PublisherKey]) -> list[Ed25519PublicKey]:
    """Return the keys in the form that verifies."""
    return [Ed25519PublicKey.from_public_bytes(key.public_key) for key in keys]
