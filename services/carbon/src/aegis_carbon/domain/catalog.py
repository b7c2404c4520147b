"""Which zones there are, which providers cover each, and which zone is the default."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from aegis_carbon.domain.errors import unknown_zone
from aegis_carbon.domain.intensity import Signal
from aegis_carbon.domain.places import ISO, GridZone
from aegis_carbon.domain.providers import IntensityProvider, ProviderZone
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
        aliases: Other ids that it answers to: what its providers call it.
    """

    id: str
    display_name: str
    providers: tuple[str, ...]
    signal: Signal
    threshold_g_per_kwh: float
    default: bool
    aliases: tuple[str, ...] = ()


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
        aliases = _aliases(providers, covered)
        self._zones = {
            name: _zone(
                name,
                by,
                threshold=zone_thresholds.get(name, threshold),
                default=name == default_zone,
                aliases=[alias for alias, zone in aliases.items() if zone == name],
            )
            for name, by in sorted(covered.items())
        }
        self._aliases = aliases
        self._order = {provider.name: number for number, provider in enumerate(providers)}
        self._default = self._zones[default_zone]
        self._named: dict[GridZone, list[Zone]] = {}
        self._at: dict[tuple[str, str], Zone] = {}
        for provider in providers:
            for zone in provider.zones:
                self._at.setdefault((provider.name, zone.code or zone.id), self._zones[zone.id])
                for grid_zone in _grid_zones(zone):
                    self._named.setdefault(grid_zone, []).append(self._zones[zone.id])

    def all(self) -> list[Zone]:
        """Return every zone, ordered by id."""
        return list(self._zones.values())

    def get(self, zone: str) -> Zone:
        """Return the zone with the id or alias *zone*, or the default one for an empty name.

        Raises:
            UnknownZone: No provider covers it.
        """
        if not zone:
            return self._default
        found = self._zones.get(self._aliases.get(zone, zone))
        if found is None:
            raise unknown_zone(zone, [*self._zones, *self._aliases])
        return found

    def named(self, grid_zones: Sequence[GridZone]) -> list[tuple[Zone, GridZone]]:
        """Return the zones that are called one of *grid_zones*, and which; the preferred provider's first."""
        found: dict[Zone, GridZone] = {}
        for grid_zone in grid_zones:
            for zone in self._named.get(grid_zone, ()):
                found.setdefault(zone, grid_zone)
        return sorted(found.items(), key=lambda item: self._order[item[0].providers[0]])

    def at(self, provider: str, code: str) -> Zone | None:
        """Return the zone that *provider* calls *code*."""
        return self._at.get((provider, code))


def _grid_zones(zone: ProviderZone) -> list[GridZone]:
    code = zone.code or zone.id
    # An id that differs from the provider's name was chosen by the operator, who names zones as most do.
    return [GridZone(code, zone.naming)] + ([GridZone(zone.id, ISO)] if zone.id != code else [])


def _aliases(providers: Sequence[IntensityProvider], ids: Collection[str]) -> dict[str, str]:
    """Return zone ids by what providers call them; what is an id, or means several zones, is left out."""
    meant: dict[str, set[str]] = {}
    for provider in providers:
        for zone in provider.zones:
            if zone.code and zone.code not in ids:
                meant.setdefault(zone.code, set()).add(zone.id)
    return {code: zones.pop() for code, zones in meant.items() if len(zones) == 1}


def _zone(
    name: str,
    providers: Sequence[IntensityProvider],
    *,
    threshold: float,
    default: bool,
    aliases: Sequence[str],
) -> Zone:
    views = [zone for provider in providers for zone in provider.zones if zone.id == name]
    if len({view.signal for view in views}) > 1:
        told = ", ".join(f"{p.name}: {v.signal.value}" for p, v in zip(providers, views, strict=True))
        raise ConfigurationError(
            f"the providers of zone {name!r} give different signals ({told}); drop one of them", zone=name
        )
    names = tuple(provider.name for provider in providers)
    return Zone(name, views[0].display_name, names, views[0].signal, threshold, default, tuple(aliases))
