"""What can go wrong when a zone is asked for."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Final

from aegis_common.errors import AegisError, ErrorKind

MOST_NEAR_MATCHES: Final = 3


class UnknownZone(AegisError):
    """No provider covers the zone; the message and `near_matches` name the zones that look alike."""

    kind = ErrorKind.NOT_FOUND
    reason = "UNKNOWN_ZONE"


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
    by_folded = {name.casefold(): name for name in known}
    found = difflib.get_close_matches(zone.casefold(), by_folded, MOST_NEAR_MATCHES, cutoff=0.5)
    near = [by_folded[folded] for folded in found]
    hint = f"did you mean {' or '.join(near)}?" if near else "ListZones names all zones."
    return UnknownZone(f"zone {zone!r} is not known; {hint}", zone=zone, near_matches=",".join(near))


def no_intensity_data(zone: str, faults: Mapping[str, str], *, retry_after: timedelta) -> NoIntensityData:
    """Return the error for *zone*; *faults* says for each provider what went wrong."""
    told = ", ".join(f"{provider}: {fault}" for provider, fault in faults.items()) or "no provider"
    return NoIntensityData(
        f"zone {zone!r} has no intensity now ({told}); try again later, or name another zone",
        retry_after=retry_after,
        zone=zone,
        providers=told,
    )
