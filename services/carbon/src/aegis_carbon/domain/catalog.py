"""Which zones there are, which providers cover each, and which zone is the default."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aegis_carbon.domain.errors import unknown_zone
from aegis_carbon.domain.intensity import Signal
from aegis_carbon.domain.providers import IntensityProvider
from aegis_common.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Zone:
    """One grid area.

    Attributes:
        id: For example `GB`.
        display_name: Name for people.
        providers: Names of the providers that cover it, in order of preference.
        signal: The one signal that all of them give, so that the threshold means the same for each.
        threshold_g_per_kwh: Highest intensity at which work starts when a call names none.
        default: Whether a call without a zone gets this one.
    """

    id: str
    display_name: str
    providers: tuple[str, ...]
    signal: Signal
    threshold_g_per_kwh: float
    default: bool


class ZoneCatalog:
    """The zones of some providers.

    Args:
        providers: In order of preference.
        default_zone: Id of the zone that a call without a zone gets.
        threshold: Threshold of a zone that is not in *zone_thresholds*, in gCO2e/kWh.
        zone_thresholds: Threshold by zone id, in gCO2e/kWh.

    Raises:
        ConfigurationError: A setting names a zone that nobody covers, or the providers of a zone give
            different signals, which no threshold could compare.
    """

    def __init__(
        self,
        providers: Sequence[IntensityProvider],
        *,
        default_zone: str,
        threshold: float,
        zone_thresholds: Mapping[str, float],
    ) -> None:
        covered: dict[str, list[IntensityProvider]] = {}
        for provider in providers:
            for zone in provider.zones:
                covered.setdefault(zone.id, []).append(provider)
        for name in (default_zone, *zone_thresholds):
            if name not in covered:
                known = ", ".join(sorted(covered))
                raise ConfigurationError(
                    f"a setting names zone {name!r}, which no provider covers; zones are {known}", zone=name
                )
        self._zones = {
            name: _zone(name, by, zone_thresholds.get(name, threshold), name == default_zone)
            for name, by in sorted(covered.items())
        }
        self._default = self._zones[default_zone]

    def all(self) -> list[Zone]:
        """Return every zone, ordered by id."""
        return list(self._zones.values())

    def get(self, zone: str) -> Zone:
        """Return the zone *zone*, or the default one for an empty name.

        Raises:
            UnknownZone: No provider covers it.
        """
        if not zone:
            return self._default
        found = self._zones.get(zone)
        if found is None:
            raise unknown_zone(zone, self._zones)
        return found


def _zone(name: str, providers: Sequence[IntensityProvider], threshold: float, default: bool) -> Zone:
    views = [zone for provider in providers for zone in provider.zones if zone.id == name]
    if len({view.signal for view in views}) > 1:
        told = ", ".join(f"{p.name}: {v.signal.value}" for p, v in zip(providers, views, strict=True))
        raise ConfigurationError(
            f"the providers of zone {name!r} give different signals ({told}); drop one of them", zone=name
        )
    names = tuple(provider.name for provider in providers)
    return Zone(name, views[0].display_name, names, views[0].signal, threshold, default)
