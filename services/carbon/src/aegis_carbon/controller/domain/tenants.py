"""Whose work the Jobs of a namespace are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final


class Tenants:
    """The tenant of each namespace.

    Args:
        names: Tenant by namespace; `*` is every other namespace.
    """

    EVERY: Final = "*"

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = dict(names)

    @property
    def scopes(self) -> list[str]:
        """Namespaces to be watched; one that is empty is all of them."""
        return [""] if self.EVERY in self._names else sorted(self._names)

    def of(self, namespace: str) -> str:
        """Return the tenant of a namespace; empty: none."""
        return self._names.get(namespace, self._names.get(self.EVERY, ""))

    def all(self) -> list[str]:
        return sorted(set(self._names.values()))
