"""The Principal: the peer's SPIFFE id plus, where there is one, the user for whom it calls."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Final

from aegis_common.errors import Unauthenticated

SCHEMA_VERSION: Final = 1
DEFAULT_TENANT: Final = "default"
_TENANT: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_SPIFFE: Final = re.compile(r"spiffe://[a-z0-9._-]+/ns/[a-z0-9-]+/sa/([a-z0-9-]+)")


@dataclass(frozen=True, slots=True)
class Principal:
    """Who makes a call.

    Attributes:
        spiffe_id: Identity of the machine that calls: the client certificate's, or the one that the
            gateway vouches for. Empty for a person who came through the gateway without a certificate.
        subject: The user or, without one, the machine; empty for an anonymous caller.
        tenant: Owner of everything that the call reads or writes; never empty.
        roles: What the caller may do, from the verified token or the identities file.
        token: The user's verified bearer token, to be forwarded by a service that calls on; never stored.
        on_behalf_of: True when a service account acts for a stored user.
    """

    spiffe_id: str
    subject: str
    tenant: str
    roles: frozenset[str]
    token: str | None = None
    on_behalf_of: bool = False

    def __repr__(self) -> str:
        return f"Principal({self.subject!r}, tenant={self.tenant!r}, roles={sorted(self.roles)})"

    @property
    def service_account(self) -> str:
        """The last part of the SPIFFE id, or an empty string."""
        return service_account(self.spiffe_id)

    def to_record(self) -> str:
        """Return the stored form, for deferred work and for `aegis-on-behalf-of`; without the token."""
        return json.dumps(
            {
                "schema_version": SCHEMA_VERSION,
                "spiffe_id": self.spiffe_id,
                "subject": self.subject,
                "tenant": self.tenant,
                "roles": sorted(self.roles),
            },
            separators=(",", ":"),
        )

    @classmethod
    def from_record(cls, record: str) -> Principal:
        """Read the stored form back.

        Raises:
            Unauthenticated: The record is broken, or of a schema version that this reader does not know.
        """
        try:
            data = json.loads(record)
            version = data["schema_version"]
            if version != SCHEMA_VERSION:
                raise Unauthenticated(
                    f"principal record has schema version {version}; this reader knows {SCHEMA_VERSION}",
                    schema_version=str(version),
                )
            return cls(
                str(data["spiffe_id"]),
                str(data["subject"]),
                checked_tenant(data["tenant"]),
                _roles(data["roles"]),
                on_behalf_of=True,
            )
        except (ValueError, KeyError, TypeError) as error:
            raise Unauthenticated("principal record cannot be read") from error


def _roles(value: object) -> frozenset[str]:
    if not (isinstance(value, list) and all(isinstance(role, str) for role in value)):
        raise TypeError("roles")
    return frozenset(value)


ANONYMOUS: Final = Principal("", "", DEFAULT_TENANT, frozenset())


def service_account(spiffe_id: str) -> str:
    """Return the service account of a SPIFFE id of ours, or an empty string."""
    match = _SPIFFE.fullmatch(spiffe_id)
    return match.group(1) if match else ""


def checked_tenant(value: object) -> str:
    """Return *value* when it is a tenant id: lower-case letters, digits and `-`, 1 to 63 of them.

    Raises:
        Unauthenticated: It is not; a tenant becomes part of keys and paths.
    """
    if not isinstance(value, str) or not _TENANT.fullmatch(value):
        raise Unauthenticated(f"tenant {value!r} is not 1 to 63 of a-z, 0-9 and -", tenant=str(value))
    return value
