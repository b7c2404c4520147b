"""Publisher keys: who of a tenant signs models, and what the signatures are worth."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Final, Protocol

from aegis_agent.domain.publisher_errors import (
    PublisherKeyOfAnother,
    PublisherKeyRevoked,
    PublisherKeysUsedUp,
    PublisherKeyTaken,
    PublisherKeyWeak,
    PublisherProofInvalid,
    TooManyPublisherKeys,
    UnknownPublisherKey,
)
from aegis_agent.domain.replicas import Changed
from aegis_common.publisher_proof import is_proved, is_weak

MAX_ACTIVE_KEYS: Final = 100
"""Of one tenant."""
MAX_KEYS: Final = 2000
"""Of one tenant, revoked ones among them: they are kept for good."""
MAY_REVOKE_ANY: Final = "admin"


class KeyState(Enum):
    """What a key's signatures are worth."""

    ACTIVE = "active"
    """What it signs is taken."""
    RETIRED = "retired"
    """Nothing new that it signs is taken; what was published before is served."""
    COMPROMISED = "compromised"
    """Nothing that it ever signed is served."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublisherKey:
    """The public half of a key, and what became of it.

    Attributes:
        key_id: First 16 hex digits of the SHA-256 of the key.
        public_key: 32 raw bytes.
        subject: Who enrolled it.
        description: The owner's word, for people.
        revoked_at: When it was revoked at last; None while it is active.
        revoked_by: By whom; empty while it is active.
    """

    tenant: str
    key_id: str
    public_key: bytes
    subject: str
    description: str
    created_at: datetime
    state: KeyState = KeyState.ACTIVE
    revoked_at: datetime | None = None
    revoked_by: str = ""


@dataclass(frozen=True, slots=True)
class Owner:
    """Who asks.

    Attributes:
        subject: The user or, without one, the machine.
    """

    tenant: str
    subject: str
    roles: frozenset[str]


class KeyRecords(Protocol):
    """Where keys are kept, for all agents; what is written stays."""

    async def keys(self, tenant: str) -> Mapping[str, PublisherKey]:
        """Return all keys of a tenant by id, as they are now."""
        ...

    async def enroll(self, tenant: str, public_key: bytes, *, subject: str, description: str) -> PublisherKey:
        """Write a key down, unless it is there already; return the one that is there now."""
        ...

    async def revoke(self, key: PublisherKey, state: KeyState, *, by: str) -> PublisherKey:
        """Write down that a key is retired or compromised; return the key as it is now."""
        ...


class Publishers:
    """Decides who may enroll and revoke what.

    Args:
        records: Where keys are kept.
        announce: Lets all agents look at a tenant's keys again; returns the id of the change.
    """

    def __init__(self, records: KeyRecords, announce: Callable[[str], Awaitable[str]]) -> None:
        self._records = records
        self._announce = announce

    async def keys(self, tenant: str) -> list[PublisherKey]:
        """Return a tenant's keys, ordered by id."""
        found = await self._records.keys(tenant)
        return [found[key_id] for key_id in sorted(found)]

    async def enroll(
        self, owner: Owner, public_key: bytes, *, key_id: str, proof: bytes, description: str
    ) -> PublisherKey:
        """Enroll a key of *owner*; the same again changes nothing.

        Raises:
            PublisherProofInvalid: *proof* is not the key's signature for this owner.
            PublisherKeyTaken: Somebody else of the tenant has enrolled it.
            PublisherKeyRevoked: It has been revoked.
            TooManyPublisherKeys: The tenant has as many active ones as it may have.
            PublisherKeysUsedUp: It has as many as it may ever have.
            PublisherKeyWeak: Signatures by it prove nothing.
        """
        if is_weak(public_key):
            raise PublisherKeyWeak
        if not is_proved(owner.tenant, owner.subject, public_key, proof):
            raise PublisherProofInvalid.of(owner.tenant, owner.subject)
        known = await self._records.keys(owner.tenant)
        if key_id not in known:
            _check_room(known)
            enrolled = await self._records.enroll(
                owner.tenant, public_key, subject=owner.subject, description=description
            )
        else:
            enrolled = known[key_id]
        if (enrolled.subject, enrolled.public_key) != (owner.subject, public_key):
            raise PublisherKeyTaken.of(key_id)
        if enrolled.state is not KeyState.ACTIVE:
            raise PublisherKeyRevoked.of(key_id)
        return enrolled

    async def revoke(self, owner: Owner, key_id: str, *, compromised: bool) -> Changed[PublisherKey]:
        """Revoke a key; what is revoked as compromised stays so. The same again tells all agents again.

        Raises:
            UnknownPublisherKey: The tenant has no such key.
            PublisherKeyOfAnother: It is not the owner's, who is no admin.
        """
        key = (await self._records.keys(owner.tenant)).get(key_id)
        if key is None:
            raise UnknownPublisherKey.of(key_id)
        if key.subject != owner.subject and MAY_REVOKE_ANY not in owner.roles:
            raise PublisherKeyOfAnother.of(key_id, key.subject)
        wanted = KeyState.COMPROMISED if compromised else KeyState.RETIRED
        if key.state not in (wanted, KeyState.COMPROMISED):
            key = await self._records.revoke(key, wanted, by=owner.subject)
        return Changed(key, await self._announce(owner.tenant))


def _check_room(known: Mapping[str, PublisherKey]) -> None:
    active = sum(key.state is KeyState.ACTIVE for key in known.values())
    if active >= MAX_ACTIVE_KEYS:
        raise TooManyPublisherKeys.of(MAX_ACTIVE_KEYS)
    if len(known) >= MAX_KEYS:
        raise PublisherKeysUsedUp.of(MAX_KEYS)
