"""The carbon service without its transport: zones, intensities and decisions."""

from __future__ import annotations

from aegis_carbon.domain.catalog import Zone, ZoneCatalog
from aegis_carbon.domain.errors import NoIntensityData
from aegis_carbon.domain.intensity import Intensity
from aegis_carbon.domain.lookup import IntensityLookup
from aegis_carbon.domain.providers import Observer
from aegis_carbon.domain.schedule import Decision, OnMissing, decide
from aegis_common.clock import Clock


class CarbonAdvisor:
    """Answers for one set of zones."""

    def __init__(
        self, catalog: ZoneCatalog, lookup: IntensityLookup, *, clock: Clock, observer: Observer
    ) -> None:
        self._catalog = catalog
        self._lookup = lookup
        self._clock = clock
        self._observer = observer

    def zones(self) -> list[Zone]:
        """Return every zone, ordered by id."""
        return self._catalog.all()

    async def intensity(self, zone: str, *, within: float) -> Intensity:
        """Return the present intensity of *zone* (id, or empty for the default), in at most *within* seconds.

        Raises:
            UnknownZone: No provider covers it.
            NoIntensityData: There is no value, fresh or stale.
        """
        return await self._lookup.current(self._catalog.get(zone), within=within)

    async def check(
        self, zone: str, *, within: float, max_g_per_kwh: float | None = None, on_missing: OnMissing
    ) -> Decision:
        """Decide whether work in *zone* (id, or empty for the default) should start now.

        Args:
            zone: Zone id, or empty for the default one.
            within: Seconds that the caller can wait.
            max_g_per_kwh: Highest intensity at which to start; the zone's own threshold if None.
            on_missing: What to decide without data.

        Raises:
            UnknownZone: No provider covers the zone.
        """
        found = self._catalog.get(zone)
        threshold = found.threshold_g_per_kwh if max_g_per_kwh is None else max_g_per_kwh
        intensity: Intensity | None
        try:
            intensity = await self._lookup.current(found, within=within)
        except NoIntensityData:
            intensity = None
        decision = decide(
            found.id, intensity, threshold_g_per_kwh=threshold, on_missing=on_missing, now=self._clock()
        )
        self._observer.decided(decision)
        return decision
