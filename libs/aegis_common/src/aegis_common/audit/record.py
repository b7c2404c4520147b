"""What is audited of one call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aegis_common.auth.principal import Principal


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRecord:
    """One call, allowed or refused.

    Attributes:
        method: `/package.Service/Method`.
        principal: Who called; `ANONYMOUS` when nobody could be named.
        code: gRPC status code by name, for example `OK` or `PERMISSION_DENIED`.
        reason: Reason of the error; empty for `OK`.
        trace_id: 32 hex digits, or empty.
        request_digest: SHA-256 of the request, 64 hex digits, or empty where it is not taken.
        peer: SPIFFE id of the direct peer where it differs from the principal's: the gateway.
        notes: What a method adds, for example the name of the tool that was called.
    """

    method: str
    principal: Principal
    code: str
    reason: str = ""
    trace_id: str = ""
    request_digest: str = ""
    peer: str = ""
    notes: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the stored form; without the token."""
        notes = {"notes": {key: _text(value) for key, value in self.notes.items()}} if self.notes else {}
        return {
            "method": _text(self.method),
            "principal": {
                "subject": _text(self.principal.subject),
                "spiffe_id": _text(self.principal.spiffe_id),
                "tenant": self.principal.tenant,
                "roles": sorted(map(_text, self.principal.roles)),
                "on_behalf_of": self.principal.on_behalf_of,
            },
            "code": self.code,
            "reason": _text(self.reason),
            "trace_id": self.trace_id,
            "request_digest": self.request_digest,
            "peer": _text(self.peer),
            **notes,
        }


def _text(value: str) -> str:
    # A token's JSON may hold half a surrogate pair, which UTF-8 cannot carry: a caller must not be able to
    # make a record that cannot be written.
    return value.encode("utf-8", "backslashreplace").decode()
