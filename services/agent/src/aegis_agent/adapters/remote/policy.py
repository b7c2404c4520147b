"""The policy file: which certificate may bring which tools, and for whom."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from aegis_agent.adapters.remote.errors import WorkerNotAllowed
from aegis_agent.domain.registry import EVERYONE
from aegis_common.auth.principal import checked_tenant, service_account
from aegis_common.errors import ConfigurationError, Unauthenticated
from aegis_common.files import read_file

SCHEMA_VERSION: Final = 1
_ALL: Final = "*"
_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Grant:
    """What a worker may bring.

    Attributes:
        owner: Tenant that its tools belong to, or `EVERYONE`.
        tools: Patterns of names, with `*` and `?`.
    """

    owner: str
    tools: tuple[str, ...]

    def allows(self, tool: str) -> bool:
        return any(fnmatchcase(tool, pattern) for pattern in self.tools)


class WorkerPolicy:
    """The policy file, read again whenever a worker comes; without a file, no worker may.

    A changed file that is wrong is logged, and what it said before stays in force.

    Raises:
        ConfigurationError: At the start, when the file is missing or wrong; names the entry.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._grants: Mapping[str, Grant] = _read(path) if path else {}

    async def grant(self, spiffe_id: str) -> Grant:
        """Return what the worker with that certificate may bring.

        Raises:
            WorkerNotAllowed: The policy does not name it.
        """
        if self._path is not None:
            try:
                self._grants = await asyncio.to_thread(_read, self._path)
            except ConfigurationError as error:
                _log.error("worker policy is wrong, the old one stays: %s", error.message)
        found = self._grants.get(spiffe_id)
        if found is None:
            raise WorkerNotAllowed(
                f"the worker policy of this agent names no tools for {spiffe_id or 'nobody'!r}; add an entry "
                "with tenant and tools",
                spiffe_id=spiffe_id,
            )
        return found


def _read(path: Path) -> dict[str, Grant]:
    try:
        data = json.loads(read_file(path, "worker policy"))
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{path} is no valid JSON: {error}", path=str(path)) from error
    if not isinstance(data, dict) or data.keys() - {"schema_version", "workers"}:
        raise ConfigurationError(f"{path} must be an object of schema_version and workers, nothing else")
    if data.get("schema_version") != SCHEMA_VERSION:
        raise ConfigurationError(
            f"{path} has schema_version {data.get('schema_version')!r}; this release reads {SCHEMA_VERSION}"
        )
    workers = data.get("workers")
    if not isinstance(workers, dict):
        raise ConfigurationError(f"{path}: workers must be an object, SPIFFE id to entry")
    return {name: _grant(name, entry, f"{path}: {name}") for name, entry in workers.items()}


def _grant(spiffe_id: str, entry: object, where: str) -> Grant:
    if not service_account(spiffe_id):
        raise ConfigurationError(f"{where} is not spiffe://<trust domain>/ns/<namespace>/sa/<account>")
    if not isinstance(entry, dict) or entry.keys() != {"tenant", "tools"}:
        raise ConfigurationError(f"{where}: must be an object of tenant and tools")
    tools = entry["tools"]
    if not isinstance(tools, list) or not all(isinstance(item, str) and item for item in tools):
        raise ConfigurationError(f"{where}: tools must be a list of names, which may hold *")
    if entry["tenant"] == _ALL:
        return Grant(EVERYONE, tuple(tools))
    try:
        return Grant(checked_tenant(entry["tenant"]), tuple(tools))
    except Unauthenticated as error:
        raise ConfigurationError(f"{where}: {error.message}; or * for all") from error
