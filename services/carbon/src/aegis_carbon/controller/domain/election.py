"""One of several controllers leads: whoever holds a Lease, and only as long as that is sure."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, Protocol

from aegis_carbon.controller.domain.ports import ApiUnavailable, Changed
from aegis_common.clock import Clock

_SURE: Final = 2 / 3
"""Share of its time for which a holder counts on a Lease: others see a renewal later than it was made."""
_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Lease:
    """A Lease as it was read or is to be written.

    Attributes:
        holder: Who leads; empty: nobody.
        lasts: For how long after a renewal that holds.
        version: `metadata.resourceVersion`; empty for one that is not there yet.
        transitions: How often the holder changed.
    """

    holder: str
    lasts: timedelta
    acquired: datetime
    renewed: datetime
    version: str = ""
    transitions: int = 0


class Leases(Protocol):
    """Keeps one Lease."""

    async def read(self) -> Lease | None:
        """Return it; None: there is none.

        Raises:
            ApiUnavailable: It is not known.
        """
        ...

    async def write(self, lease: Lease) -> Lease:
        """Write it in the place of the one that was read, and return it as it stands then.

        Raises:
            Changed: Somebody else was first.
            ApiUnavailable: It may or may not have been written.
        """
        ...


class Election:
    """Takes and renews a Lease.

    Another holder's time counts from when a renewal of it was seen, by a clock that never steps: clocks of
    several machines are not compared.

    Args:
        leases: The Lease.
        identity: Who this is; of no other process, at any time.
        lasts: For how long a renewal holds.
        clock: Present time, which is written for people.
        elapsed: A clock that never steps, in seconds.
    """

    def __init__(
        self, leases: Leases, identity: str, *, lasts: timedelta, clock: Clock, elapsed: Callable[[], float]
    ) -> None:
        self._leases, self._identity, self._lasts = leases, identity, lasts
        self._clock, self._elapsed = clock, elapsed
        self._sure_until_s: float | None = None
        self._seen: tuple[str, float] | None = None
        self._led = False
        self._failing = False

    def leading(self) -> bool:
        """Return whether nobody else can be leading now."""
        return self._sure_until_s is not None and self._elapsed() < self._sure_until_s

    async def turn(self) -> None:
        """Renew the Lease, or take it if its holder is gone; call it several times within `lasts`."""
        began_s = self._elapsed()
        try:
            if await self._taken():
                self._sure_until_s = began_s + self._lasts.total_seconds() * _SURE
            else:
                self._sure_until_s = None
            self._failing = False
        except Changed:
            self._sure_until_s = None
        except ApiUnavailable as error:
            # What was sure remains so until it has run out.
            if not self._failing:
                _log.warning("the Lease can be neither read nor written: %s", error.message)
            self._failing = True
        self._tell()

    def _tell(self) -> None:
        leads = self.leading()
        if leads != self._led:
            _log.info("leading" if leads else "not leading", extra={"identity": self._identity})
        self._led = leads

    async def _taken(self) -> bool:
        now = self._clock()
        lease = await self._leases.read()
        if lease is None:
            await self._leases.write(Lease(self._identity, self._lasts, now, now))
            return True
        if lease.holder == self._identity:
            await self._leases.write(replace(lease, lasts=self._lasts, renewed=now))
            return True
        if self._seen is None or self._seen[0] != lease.version:
            self._seen = lease.version, self._elapsed()
        if lease.holder and self._elapsed() < self._seen[1] + lease.lasts.total_seconds():
            return False
        taken = Lease(self._identity, self._lasts, now, now, lease.version, lease.transitions + 1)
        await self._leases.write(taken)
        return True

    async def resign(self) -> None:
        """Let the next one lead at once; a Lease that cannot be written runs out by itself."""
        if not self.leading():
            return
        self._sure_until_s = None
        self._tell()
        try:
            lease = await self._leases.read()
            if lease is not None and lease.holder == self._identity:
                await self._leases.write(replace(lease, holder="", renewed=self._clock()))
        except (Changed, ApiUnavailable):
            _log.info("the Lease is left to run out")
