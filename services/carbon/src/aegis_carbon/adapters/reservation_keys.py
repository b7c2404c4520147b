"""Keys of reservations in Redis: those of a tenant begin with `carbon:t:TENANT:reservation:`.

    carbon:t:TENANT:reservation:item:ID          hash: `record` (JSON), `revision`, `request` (key of its id)
    carbon:t:TENANT:reservation:index            sorted set of all ids, by name: they begin with their time
    carbon:t:TENANT:reservation:open             set of the ids that have not ended
    carbon:t:TENANT:reservation:request:REQUEST  `ID DIGEST`, what was made of a request id
    carbon:reservation:due                       sorted set TENANT/ID by the time when something happens to it
    carbon:reservation:look                      sorted set TENANT/ID by the time when it is planned anew
    carbon:reservation:expiry                    sorted set TENANT/ID by the time when it is deleted
    carbon:reservation:pool:NAME                 counts the changes of a pool
    carbon:reservation:pool:NAME:members         set TENANT/ID of a pool that have not ended
    carbon:reservation:news                      channel: TENANT/ID has changed

Scores are milliseconds since 1970 (UTC), by the clock of the service.
"""

from __future__ import annotations

from typing import Final

from aegis_carbon.domain.reservations.store import Ref

DUE: Final = "carbon:reservation:due"
LOOK: Final = "carbon:reservation:look"
EXPIRY: Final = "carbon:reservation:expiry"
NEWS: Final = "carbon:reservation:news"


def item(ref: Ref) -> str:
    return f"carbon:t:{ref.tenant}:reservation:item:{ref.id}"


def index(tenant: str) -> str:
    return f"carbon:t:{tenant}:reservation:index"


def open_ids(tenant: str) -> str:
    return f"carbon:t:{tenant}:reservation:open"


def request(tenant: str, request_id: str) -> str:
    return f"carbon:t:{tenant}:reservation:request:{request_id}"


def pool(name: str) -> str:
    return f"carbon:reservation:pool:{name}"


def members(name: str) -> str:
    return f"carbon:reservation:pool:{name}:members"


def member(ref: Ref) -> str:
    return f"{ref.tenant}/{ref.id}"


def ref_of(found: bytes) -> Ref:
    tenant, _, reservation_id = found.decode().partition("/")
    return Ref(tenant, reservation_id)
