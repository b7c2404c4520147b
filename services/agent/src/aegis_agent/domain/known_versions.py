"""Which model versions have been published, as far as this replica knows."""

from __future__ import annotations

from collections import defaultdict
from typing import Final

from aegis_agent.domain.errors import UnknownModel, UnknownModelVersion
from aegis_agent.domain.model import ModelVersion

_TOLD: Final = 10


class KnownVersions:
    """Published versions by tenant, model and id; a tenant sees its own only."""

    def __init__(self) -> None:
        self._versions: dict[str, dict[str, dict[str, ModelVersion]]] = defaultdict(dict)

    def models(self, tenant: str) -> list[str]:
        """Return the names of a tenant's models, in ascending order."""
        return sorted(self._versions[tenant])

    def names(self) -> list[tuple[str, str]]:
        """Return tenant and name of every model."""
        return [(tenant, name) for tenant, models in self._versions.items() for name in models]

    def of(self, name: str, *, tenant: str) -> list[ModelVersion]:
        """Return the versions of a model, newest first.

        Raises:
            UnknownModel: The tenant has none of that name.
        """
        known = self._versions[tenant]
        if name not in known:
            raise UnknownModel.named(name, known)
        by_id = sorted(known[name].values(), key=lambda item: item.version)
        return sorted(by_id, key=lambda item: item.create_time, reverse=True)

    def get(self, name: str, version: str, *, tenant: str) -> ModelVersion:
        """Return one version of a model.

        Raises:
            UnknownModel: The tenant has no such model.
            UnknownModelVersion: The model has no such version.
        """
        newest = self.of(name, tenant=tenant)
        found = self.find(tenant, name, version)
        if found is None:
            raise UnknownModelVersion(
                f"version {version!r} of model {name!r} has not been published; there are "
                f"{', '.join(item.version for item in newest[:_TOLD])}",
                model=name,
                version=version,
            )
        return found

    def find(self, tenant: str, name: str, version: str) -> ModelVersion | None:
        return self._versions[tenant].get(name, {}).get(version)

    def ids(self, tenant: str, name: str) -> list[str]:
        """Return the ids of a model's versions; none for a model that is not known."""
        return list(self._versions[tenant].get(name, {}))

    def put(self, version: ModelVersion) -> None:
        """Know a version from now on, in place of what was known of it."""
        self._versions[version.tenant].setdefault(version.model, {})[version.version] = version

    def remove(self, version: ModelVersion) -> None:
        """Know a version no longer; with its last version a model is gone."""
        versions = self._versions[version.tenant].get(version.model, {})
        versions.pop(version.version, None)
        if not versions:
            self._versions[version.tenant].pop(version.model, None)
