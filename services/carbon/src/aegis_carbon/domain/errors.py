"""What can go wrong when a zone is asked for."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Final

from aegis_carbon.domain.places import ISO, WATTTIME, GridZone
from aegis_common.errors import AegisError, ErrorKind

MOST_NEAR_MATCHES: Final = 3


class UnknownZone(AegisError):
    """No provider covers the zone; the message and `near_matches` name the zones that look alike."""

    kind = ErrorKind.NOT_FOUND
    reason = "UNKNOWN_ZONE"


class UnknownPlace(AegisError):
    """Nobody knows the place, or its name means several; `near_matches` names those that look alike."""

    kind = ErrorKind.NOT_FOUND
    reason = "UNKNOWN_PLACE"


class NoIntensityData(AegisError):
    """Every provider of the zone failed or had nothing, and no value is young enough to be used."""

    kind = ErrorKind.UNAVAILABLE
    reason = "NO_INTENSITY_DATA"


class TooLittleHistory(AegisError):
    """A forecast needs more measured values than there are."""

    kind = ErrorKind.FAILED_PRECONDITION
    reason = "TOO_LITTLE_HISTORY"


class InfeasibleJob(AegisError):
    """A job cannot run as it asks; `earliest_finish`, where set, says by when it could end."""

    kind = ErrorKind.FAILED_PRECONDITION
    reason = "INFEASIBLE_JOB"


def unknown_zone(zone: str, known: Iterable[str]) -> UnknownZone:
    """Return the error for *zone*, with up to 3 near matches from *known*, nearest first."""
    near = _near(zone, known)
    hint = f"did you mean {' or '.join(near)}?" if near else "ListZones names all zones."
    return UnknownZone(f"zone {zone!r} is not known; {hint}", zone=zone, near_matches=",".join(near))


def unknown_place(kind: str, place: str, known: Iterable[str], *, near: Sequence[str] = ()) -> UnknownPlace:
    """Return the error for a place of a *kind*; near matches are *near*, else those of *known*."""
    found = list(near[:MOST_NEAR_MATCHES]) or _near(place, known)
    hint = f"; the nearest that is known: {', '.join(found)}" if found else ""
    return UnknownPlace(f"{kind} {place!r} is not known{hint}", place=place, near_matches=",".join(found))


def ambiguous_place(place: str, meant: Sequence[str]) -> UnknownPlace:
    """Return the error for a name that several places have."""
    told = ", ".join(meant)
    return UnknownPlace(
        f"{place!r} means several regions; name one of {told}", place=place, near_matches=told
    )


def uncovered_place(place: str, grid_zones: Sequence[GridZone], near: Sequence[str]) -> UnknownZone:
    """Return the error for a known place whose zone no provider of this deployment covers.

    Args:
        place: For people.
        grid_zones: What its zone is called, the smallest first.
        near: Zones of this deployment in the same country.
    """
    names = ", ".join(dict.fromkeys(zone.name for zone in grid_zones)) or "a zone that nobody has checked"
    could = [f"{provider}:{zone.name}" for zone in grid_zones for provider in _covering(zone)]
    means = f"it could be covered by {', '.join(could)} (see AEGIS_CARBON_PROVIDERS)" if could else ""
    told = list(near[:MOST_NEAR_MATCHES])
    hint = f"zones here in the same country: {', '.join(told)}" if told else "ListZones names all zones"
    return UnknownZone(
        f"{place} lies in {names}, which no provider here covers; {'; '.join(filter(None, (means, hint)))}",
        zone=grid_zones[0].name if grid_zones else "",
        near_matches=",".join(told),
        could_cover=",".join(could),
    )


def _covering(zone: GridZone) -> list[str]:
    if zone.naming == WATTTIME:
        return ["watttime"]
    british = zone.naming == ISO and zone.name == "GB"
    return ["uk", "electricity_maps"] if british else ["electricity_maps"]


def _near(name: str, known: Iterable[str]) -> list[str]:
    by_folded = {item.casefold(): item for item in known}
    found = difflib.get_close_matches(name.casefold(), by_folded, MOST_NEAR_MATCHES, cutoff=0.5)
    return [by_folded[folded] for folded in found]


def no_intensity_data(zone: str, faults: Mapping[str, str], *, retry_after: timedelta) -> NoIntensityData:
    """Return the error for *zone*; *faults* says for each provider what went wrong."""
    told = ", ".join(f"{provider}: {fault}" for provider, fault in faults.items()) or "no provider"
    return NoIntensityData(
        f"zone {zone!r} has no intensity now ({told}); try again later, or name another zone",
        retry_after=retry_after,
        zone=zone,
        providers=told,
    )
