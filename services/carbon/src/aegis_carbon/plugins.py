"""Providers of other packages: entry points `aegis.carbon.providers`, loaded where the settings name them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from aegis_carbon.adapters.json_api import JsonApi
from aegis_carbon.domain.providers import IntensityProvider
from aegis_carbon.source_settings import GROUP
from aegis_common.clock import Clock
from aegis_common.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class ProviderKit:
    """What the function behind an entry point makes its provider of.

    Attributes:
        options: What the operator set for it in `AEGIS_CARBON_PROVIDER_OPTIONS`.
        clock: Present time, UTC; a provider looks at no other clock.
        api: Given the base URL of a JSON API and headers, returns what asks it: bounded in time and length,
            with failures that are told and, where that may help, tried again.
    """

    options: Mapping[str, Any]
    clock: Clock
    api: Callable[[str, Mapping[str, str]], JsonApi]


def installed_provider(name: str, kit: ProviderKit) -> IntensityProvider:
    """Return the provider that an installed package makes for the entry point *name*.

    Raises:
        ConfigurationError: It cannot be loaded or made, or calls itself something else, or several packages
            have one of that name.
    """
    found = list(entry_points(group=GROUP, name=name))
    if len(found) != 1:
        told = ", ".join(entry.value for entry in found) or "none"
        raise ConfigurationError(f"provider {name!r} needs one entry point {GROUP}; found: {told}", name=name)
    try:
        provider: IntensityProvider = found[0].load()(kit)
        called = provider.name
    except Exception as error:  # whatever a foreign package raises, the start stops by its name
        raise ConfigurationError(
            f"provider {name!r} ({found[0].value}) cannot be made: {error!r}", name=name
        ) from error
    if called != name:
        raise ConfigurationError(
            f"provider {name!r} ({found[0].value}) calls itself {called!r}; the two names have to be one",
            name=name,
        )
    return provider
