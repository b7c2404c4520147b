"""Keeps a replica from serving what compromised keys have signed, as soon as it is known."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from typing import Protocol

from aegis_agent.domain.model import ModelChange, ModelLibrary
from aegis_agent.domain.replicas import Report
from aegis_common.errors import AegisError, ErrorKind


class Distrusting(Protocol):
    """What lets go of models."""

    def names(self) -> list[tuple[str, str]]:
        """Return tenant and name of every model that is known."""
        ...

    def distrust(self, tenant: str, model: str, keys: Collection[str]) -> None:
        """Serve nothing any longer that one of *keys* signed."""
        ...


class KeySync:
    """Takes over what became of tenants' keys, one `turn` after the other.

    Args:
        library: The truth.
        models: The models of this replica.
        report: Told of the changes that have been dealt with.
    """

    def __init__(self, library: ModelLibrary, models: Distrusting, report: Report) -> None:
        self._library = library
        self._models = models
        self._report = report
        self._due: defaultdict[str, list[ModelChange]] = defaultdict(list)

    def add(self, change: ModelChange) -> None:
        """Take a change over at the next turn."""
        self._due[change.tenant].append(change)

    async def turn(self) -> dict[str, AegisError]:
        """Take over what is due; return tenant to why it could not be.

        What fails because something is away is tried again at the next turn.
        """
        faults: dict[str, AegisError] = {}
        for tenant in sorted(self._due):
            try:
                await self._distrust(tenant)
            except AegisError as error:
                faults[tenant] = error
                if error.kind is ErrorKind.UNAVAILABLE:
                    continue
            fault = faults[tenant].message if tenant in faults else ""
            await self._report({change.id: fault for change in self._due.pop(tenant)})
        return faults

    async def _distrust(self, tenant: str) -> None:
        compromised = await self._library.compromised(tenant)
        for owner, model in self._models.names():
            if owner == tenant:
                self._models.distrust(tenant, model, compromised)
