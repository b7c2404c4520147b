"""The identities file: which tenant and roles a machine has that calls with its certificate alone."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final, Self

from aegis_common.auth.principal import checked_tenant, service_account
from aegis_common.background import Every
from aegis_common.errors import ConfigurationError, Unauthenticated
from aegis_common.files import read_file

SCHEMA_VERSION: Final = 1
USER_ROLES: Final = frozenset({"viewer", "operator", "trainer", "admin"})
"""Roles of people and of machines that act as people do."""
WORKER_ROLE: Final = "worker"
ROLES: Final = USER_ROLES | {"node", WORKER_ROLE}
"""All roles of the identities file; `node` is a training site's, `worker` a tool worker's. No token gives
them."""
MESH_ACCOUNTS: Final = frozenset(
    {"gateway", "agent", "carbon", "carbon-controller", "fl-coordinator", "fl-edge", "fl-serverapp"}
)
"""Service accounts of our own services: they call each other directly, never through the gateway."""

_FIELDS: Final = frozenset({"tenant", "roles", "via_gateway"})
_POLL: Final = timedelta(seconds=1)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Identity:
    """What a certificate alone is worth.

    Attributes:
        spiffe_id: `spiffe://<trust domain>/ns/<namespace>/sa/<account>`.
        tenant: Owner of everything it reads or writes.
        roles: A subset of `ROLES`.
        via_gateway: True when the gateway may vouch for it.
    """

    spiffe_id: str
    tenant: str
    roles: frozenset[str]
    via_gateway: bool


class Identities:
    """The identities file, read again when it changes, as long as an `async with` block runs.

    A changed file that is wrong is logged and counted, and the old content stays in use.

    Raises:
        ConfigurationError: At the start, when the file is missing or wrong; names the entry and the field.
    """

    def __init__(self, path: Path, *, interval: timedelta = _POLL) -> None:
        self._path = path
        self._seen = read_file(path, "identities file")
        self._entries = parse(self._seen, str(path))
        self._every = Every(interval, self._look, name="identities watcher")
        self._failed = 0

    async def __aenter__(self) -> Self:
        await self._every.__aenter__()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._every.__aexit__(*exception)

    @property
    def failed_reloads(self) -> int:
        """Changed files that were refused since the start."""
        return self._failed

    def lookup(self, spiffe_id: str) -> Identity | None:
        return self._entries.get(spiffe_id)

    async def _look(self) -> None:
        content = await asyncio.to_thread(_content_or_nothing, self._path)
        if content == self._seen:
            return
        self._seen = content
        try:
            self._entries = parse(content, str(self._path))
        except ConfigurationError as error:
            self._failed += 1
            _log.error("identities file changed but is wrong, the old one stays: %s", error.message)
        else:
            _log.info("identities file %s read again: %d identities", self._path, len(self._entries))


def parse(content: bytes, name: str) -> Mapping[str, Identity]:
    """Read an identities file.

    Args:
        content: JSON: `schema_version` 1 and `identities`, which maps SPIFFE id to `tenant`, `roles` and
            `via_gateway`.
        name: Name of the file, for messages.

    Raises:
        ConfigurationError: Not JSON, of another schema version, or an entry is wrong; names the entry.
    """
    try:
        data = json.loads(content, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{name} is no valid JSON: {error}", path=name) from error
    if not isinstance(data, dict) or set(data) - {"schema_version", "identities"}:
        raise ConfigurationError(
            f"{name} must be an object of schema_version and identities, nothing else", path=name
        )
    if data.get("schema_version") != SCHEMA_VERSION:
        found = data.get("schema_version")
        raise ConfigurationError(
            f"{name} has schema_version {found!r}; this release reads {SCHEMA_VERSION}", path=name
        )
    entries = data.get("identities")
    if not isinstance(entries, dict):
        raise ConfigurationError(f"{name}: identities must be an object, SPIFFE id to entry", path=name)
    return {key: _identity(key, entry, f"{name}: {key}") for key, entry in entries.items()}


def _content_or_nothing(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _identity(spiffe_id: str, entry: object, where: str) -> Identity:
    account = service_account(spiffe_id)
    if not account:
        raise ConfigurationError(f"{where} is not spiffe://<trust domain>/ns/<namespace>/sa/<account>")
    if not isinstance(entry, dict):
        raise ConfigurationError(f"{where}: must be an object")
    if unknown := sorted(set(entry) - _FIELDS):
        raise ConfigurationError(f"{where}: unknown field {', '.join(unknown)}; known: {_listed(_FIELDS)}")
    roles = entry.get("roles", [])
    if not isinstance(roles, list) or not all(isinstance(role, str) for role in roles):
        raise ConfigurationError(f"{where}: roles must be a list of names")
    if unknown := sorted(set(roles) - ROLES):
        raise ConfigurationError(f"{where}: unknown role {', '.join(unknown)}; known: {_listed(ROLES)}")
    via_gateway = entry.get("via_gateway", False)
    if not isinstance(via_gateway, bool):
        raise ConfigurationError(f"{where}: via_gateway must be true or false")
    if via_gateway and account in MESH_ACCOUNTS:
        raise ConfigurationError(f"{where}: a service of the mesh never comes via_gateway; remove that")
    try:
        tenant = checked_tenant(entry.get("tenant"))
    except Unauthenticated as error:
        raise ConfigurationError(f"{where}: {error.message}") from error
    return Identity(spiffe_id, tenant, frozenset(roles), via_gateway)


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(n for n in names if names.count(n) > 1)!r} stands there twice")
    return result


def _listed(names: frozenset[str]) -> str:
    return ", ".join(sorted(names))
