"""What can go wrong with publisher keys."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from aegis_common.errors import AegisError, ErrorKind, Scope

_RETRY_AFTER: Final = timedelta(minutes=1)


class PublisherKeysDisabled(AegisError):
    """The operator has set no key with which agents sign what they write down about publisher keys."""

    kind = ErrorKind.FAILED_PRECONDITION
    reason = "PUBLISHER_KEYS_DISABLED"

    def __init__(self) -> None:
        super().__init__(
            "this agent keeps no publisher keys: the operator has to set AEGIS_AGENT_RECORDS_KEY to an "
            "Ed25519 private key (PEM file), the same for all agents over one model store",
            setting="AEGIS_AGENT_RECORDS_KEY",
        )


class PublisherProofInvalid(AegisError):
    """The proof was not made by the key, or for another caller."""

    kind = ErrorKind.INVALID_ARGUMENT
    reason = "PUBLISHER_PROOF_INVALID"

    @classmethod
    def of(cls, tenant: str, subject: str) -> PublisherProofInvalid:
        what = f"is not the key's signature for tenant {tenant!r} and subject {subject!r}"
        return cls(
            f"proof {what}; GetPublisher tells what it has to name",
            violations={"proof": what},
            tenant=tenant,
            subject=subject,
        )


class PublisherKeyWeak(AegisError):
    """The key is a point of small order: anybody can write down signatures that suit it."""

    kind = ErrorKind.INVALID_ARGUMENT
    reason = "PUBLISHER_KEY_WEAK"

    def __init__(self) -> None:
        what = "is a point of small order, whose signatures prove nothing"
        super().__init__(
            f"public_key {what}; make a key with `aegis models keys enroll`, or any Ed25519 library",
            violations={"public_key": what},
        )


class PublisherKeyTaken(AegisError):
    """Somebody else of the tenant has enrolled the key."""

    kind = ErrorKind.ALREADY_EXISTS
    reason = "PUBLISHER_KEY_TAKEN"

    @classmethod
    def of(cls, key_id: str) -> PublisherKeyTaken:
        return cls(f"key {key_id} has been enrolled by somebody else; make one of your own", key_id=key_id)


class PublisherKeyRevoked(AegisError):
    """A revoked key never comes back."""

    kind = ErrorKind.FAILED_PRECONDITION
    reason = "PUBLISHER_KEY_REVOKED"

    @classmethod
    def of(cls, key_id: str) -> PublisherKeyRevoked:
        return cls(f"key {key_id} has been revoked, for good; make and enroll a new one", key_id=key_id)


class TooManyPublisherKeys(AegisError):
    """The tenant has as many keys as it may have."""

    kind = ErrorKind.RESOURCE_EXHAUSTED
    reason = "TOO_MANY_PUBLISHER_KEYS"
    scope = Scope.FLEET

    @classmethod
    def of(cls, limit: int) -> TooManyPublisherKeys:
        return cls(
            f"the tenant has {limit} active publisher keys, which is all it may have; revoke one that is not "
            "used any longer",
            retry_after=_RETRY_AFTER,
            limit=str(limit),
        )


class PublisherKeysUsedUp(AegisError):
    """The tenant has as many keys as it may ever have."""

    kind = ErrorKind.FAILED_PRECONDITION
    reason = "PUBLISHER_KEYS_USED_UP"
    scope = Scope.FLEET

    @classmethod
    def of(cls, limit: int) -> PublisherKeysUsedUp:
        return cls(
            f"the tenant has enrolled {limit} publisher keys, revoked ones among them, which is all it may "
            "ever have; go on with those that are active",
            limit=str(limit),
        )


class UnknownPublisherKey(AegisError):
    kind = ErrorKind.NOT_FOUND
    reason = "UNKNOWN_PUBLISHER_KEY"

    @classmethod
    def of(cls, key_id: str) -> UnknownPublisherKey:
        return cls(f"the tenant has no publisher key {key_id!r}", key_id=key_id)


class PublisherKeyOfAnother(AegisError):
    """One revokes one's own keys; only an admin revokes any."""

    kind = ErrorKind.PERMISSION_DENIED
    reason = "PUBLISHER_KEY_OF_ANOTHER"

    @classmethod
    def of(cls, key_id: str, subject: str) -> PublisherKeyOfAnother:
        return cls(f"key {key_id} is {subject}'s; an admin can revoke it", key_id=key_id, subject=subject)
