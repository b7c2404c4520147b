"""Keeps a replica's models as the library says: what was published before it started, or elsewhere."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import Final, Protocol

from aegis_agent.domain.model import ModelLibrary, ModelVersion
from aegis_common.errors import AegisError, ErrorKind

SYNC_EVERY: Final = timedelta(seconds=2)
"""Pause between two looks at what has changed."""
WHOLE_EVERY: Final = timedelta(minutes=1)
"""Pause between two looks at everything; what a replica was never told of is found then."""

_Name = tuple[str, str]
"""Tenant and model."""
_log: Final = logging.getLogger(__name__)


class Follower(Protocol):
    """What is kept up to date."""

    def knows(self, tenant: str, model: str, version: str) -> bool: ...

    def take_in(self, version: ModelVersion) -> None:
        """Know a version from now on."""
        ...

    async def follow_alias(self, tenant: str, model: str) -> None:
        """Serve the version that the alias `production` names, if it is known.

        Raises:
            AegisError: Why it cannot be served.
        """
        ...


class ModelSync:
    """Takes over changes, one `turn` after the other.

    What fails because something is away is tried again at the next turn; what fails for good is told once,
    and tried again when the model changes or everything is looked at.

    Args:
        library: The truth.
        follower: The models of this replica.
        whole_every: Pause between two looks at everything.
    """

    def __init__(
        self, library: ModelLibrary, follower: Follower, *, whole_every: timedelta = WHOLE_EVERY
    ) -> None:
        self._library = library
        self._follower = follower
        self._whole_every_s = whole_every.total_seconds()
        self._whole_at = 0.0
        self._seen: frozenset[str] = frozenset()
        self._due: set[_Name] = set()
        self._told: dict[str, str] = {}

    async def turn(self) -> None:
        """Take over what has changed since the last turn; the first one takes over everything."""
        try:
            await self._look()
        except AegisError as error:
            self._tell("the model store", error)
            return
        self._told.pop("the model store", None)
        for name in sorted(self._due):
            if await self._take_over(*name):
                self._due.discard(name)

    async def _look(self) -> None:
        now = asyncio.get_running_loop().time()
        changes = await self._library.changes()
        if now >= self._whole_at:
            self._due |= set(await self._library.names())
            self._whole_at = now + self._whole_every_s
        self._due |= {(change.tenant, change.model) for change in changes if change.id not in self._seen}
        self._seen = frozenset(change.id for change in changes)

    async def _take_over(self, tenant: str, model: str) -> bool:
        """Bring one model up to date; return False to try again at the next turn."""
        name = f"{tenant}/{model}"
        try:
            versions = await self._library.published(tenant, model)
        except AegisError as error:
            return self._final(name, error)
        unknown = [item for item in versions if not self._follower.knows(tenant, model, item)]
        done = [await self._known(tenant, model, item) for item in unknown]
        try:
            await self._follower.follow_alias(tenant, model)
        except AegisError as error:
            return self._final(name, error)
        if all(done):
            self._told.pop(name, None)
        return all(done)

    async def _known(self, tenant: str, model: str, version: str) -> bool:
        try:
            self._follower.take_in(await self._library.version(tenant, model, version))
        except AegisError as error:
            return self._final(f"{tenant}/{model}/{version}", error)
        return True

    def _final(self, what: str, error: AegisError) -> bool:
        self._tell(what, error)
        return error.kind is not ErrorKind.UNAVAILABLE

    def _tell(self, what: str, error: AegisError) -> None:
        if self._told.get(what) == error.message:
            return
        self._told[what] = error.message
        level = logging.WARNING if error.kind is ErrorKind.UNAVAILABLE else logging.ERROR
        extra = {"what": what, "reason": error.reason, "error": error.message}
        _log.log(level, "models are not up to date", extra=extra)
