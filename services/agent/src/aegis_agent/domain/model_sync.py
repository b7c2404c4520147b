"""Keeps a replica's models as the library says: what was published before it started, or elsewhere."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Collection
from datetime import timedelta
from typing import Final, Protocol

from aegis_agent.domain.key_sync import Distrusting, KeySync
from aegis_agent.domain.model import (
    EVERY_MODEL,
    LOADING_TOPIC,
    PRODUCTION,
    ModelChange,
    ModelLibrary,
    ModelVersion,
    alias_topic,
    version_topic,
)
from aegis_agent.domain.replicas import Report, tell_nobody
from aegis_common.errors import AegisError, ErrorKind

SYNC_EVERY: Final = timedelta(seconds=2)
"""Pause between two looks at what has changed."""
WHOLE_EVERY: Final = timedelta(minutes=1)
"""Pause between two looks at everything; what a replica was never told of is found then."""

EVERYTHING: Final = "everything"
"""Topic of what goes wrong with a model as a whole."""

_AT_ONCE: Final = 4
_LOOKS_AT_ONCE: Final = 16
_Name = tuple[str, str]
"""Tenant and model."""
_Faults = dict[str, AegisError]
"""Topic to what is wrong with it."""
_log: Final = logging.getLogger(__name__)


class Follower(Distrusting, Protocol):
    """What is kept up to date."""

    def ids(self, tenant: str, model: str) -> list[str]:
        """Return the ids of the versions of a model that are known."""
        ...

    def take_in(self, version: ModelVersion) -> None:
        """Know a version from now on."""
        ...

    def forget(self, tenant: str, model: str, versions: Collection[str]) -> None:
        """Know and serve versions no longer."""
        ...

    async def follow_alias(self, tenant: str, model: str) -> None:
        """Serve the version that the alias `production` names, if it is known, and none without it.

        Raises:
            AegisError: Why it cannot be served.
        """
        ...

    async def follow_loading(self, tenant: str, model: str) -> None:
        """Load or unload the model if somebody has asked for it since the last time.

        Raises:
            AegisError: Why it cannot be loaded.
        """
        ...


class ModelSync:
    """Takes over changes: `look`, which is quick, and `serve`, which loads models, each again and again.

    What fails because something is away is tried again at the next turn; what fails for good is told once,
    and tried again when the model changes or everything is looked at.

    Args:
        library: The truth.
        follower: The models of this replica.
        whole_every: Pause between two looks at everything.
        report: Told of the changes that have been dealt with.
    """

    def __init__(
        self,
        library: ModelLibrary,
        follower: Follower,
        *,
        whole_every: timedelta = WHOLE_EVERY,
        report: Report = tell_nobody,
    ) -> None:
        self._library = library
        self._follower = follower
        self._whole_every_s = whole_every.total_seconds()
        self._report = report
        self._whole_at = 0.0
        self._seen: frozenset[str] = frozenset()
        self._due: defaultdict[_Name, list[ModelChange]] = defaultdict(list)
        self._unseen: set[_Name] = set()
        self._keys = KeySync(library, follower, report)
        self._compromised: dict[str, frozenset[str]] = {}
        self._faults: dict[_Name, _Faults] = {}
        self._told: dict[str, str] = {}
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def turn(self) -> None:
        """Take over what has changed since the last turn; the first one takes over everything."""
        await self.look()
        await self.serve()

    async def look(self) -> None:
        """Learn of versions, and let go of those that are deleted or no longer trusted."""
        try:
            await self._find_due()
        except AegisError as error:
            self._tell("the model store", error)
            return
        self._told.pop("the model store", None)
        for tenant, fault in (await self._keys.turn()).items():
            self._tell(f"keys of {tenant}", fault)
        self._compromised.clear()
        slots = asyncio.Semaphore(_LOOKS_AT_ONCE)

        async def take_over(name: _Name) -> None:
            async with slots:
                self._faults[name] = await self._take_over(*name)
                self._unseen.discard(name)

        await asyncio.gather(*(take_over(name) for name in sorted(self._unseen)))

    async def serve(self) -> None:
        """Let the versions answer that aliases name now; a load that takes long holds up no other model."""
        await asyncio.gather(*(self._settle(name) for name in sorted(self._due)))

    async def _settle(self, name: _Name) -> None:
        async with self._slots:
            if name in self._due and name not in self._unseen:  # else its versions come first
                await self._follow(name, self._due.pop(name), self._faults.pop(name, {}))

    async def _follow(self, name: _Name, changes: list[ModelChange], faults: _Faults) -> None:
        try:
            await self._follower.follow_alias(*name)
        except AegisError as error:
            faults[alias_topic(PRODUCTION)] = error
        try:
            await self._follower.follow_loading(*name)
        except AegisError as error:
            faults[LOADING_TOPIC] = error
        self._tell_all("/".join(name), faults)
        if any(fault.kind is ErrorKind.UNAVAILABLE for fault in faults.values()):
            self._due[name] += changes
            self._unseen.add(name)
        else:
            await self._report({change.id: _why(change, faults) for change in changes})

    async def _find_due(self) -> None:
        now = asyncio.get_running_loop().time()
        changes = await self._library.changes()
        if now >= self._whole_at:
            for name in {*await self._library.names(), *self._follower.names()}:
                self._due.setdefault(name, [])
                self._unseen.add(name)
            self._whole_at = now + self._whole_every_s
        for change in changes:
            if change.id in self._seen:
                continue
            if change.model == EVERY_MODEL:
                self._keys.add(change)
            else:
                self._due[change.tenant, change.model].append(change)
                self._unseen.add((change.tenant, change.model))
        self._seen = frozenset(change.id for change in changes)

    async def _take_over(self, tenant: str, model: str) -> _Faults:
        """Bring one model's versions up to date; return what cannot be taken over."""
        faults: _Faults = {}
        before = self._follower.ids(tenant, model)
        try:
            published = await self._library.published(tenant, model)
            # Known before the list was made, and not in it: what is published meanwhile is not meant.
            self._follower.forget(tenant, model, set(before).difference(published))
            self._follower.distrust(tenant, model, await self._compromised_of(tenant))
            known = self._follower.ids(tenant, model)
            for version in published:
                if version not in known:
                    await self._take_in(tenant, model, version, faults)
        except AegisError as error:
            faults[EVERYTHING] = error
        return faults

    async def _compromised_of(self, tenant: str) -> frozenset[str]:
        """Return the tenant's compromised keys, as they were at some time during this look."""
        if tenant not in self._compromised:
            self._compromised[tenant] = await self._library.compromised(tenant)
        return self._compromised[tenant]

    async def _take_in(self, tenant: str, model: str, version: str, faults: _Faults) -> None:
        try:
            self._follower.take_in(await self._library.version(tenant, model, version))
        except AegisError as error:
            faults[version_topic(version)] = error

    def _tell_all(self, model: str, faults: _Faults) -> None:
        for topic, error in faults.items():
            self._tell(f"{model} {topic}", error)
        if not faults:
            for what in [what for what in self._told if what.startswith(f"{model} ")]:
                del self._told[what]

    def _tell(self, what: str, error: AegisError) -> None:
        if self._told.get(what) == error.message:
            return
        self._told[what] = error.message
        level = logging.WARNING if error.kind is ErrorKind.UNAVAILABLE else logging.ERROR
        extra = {"what": what, "reason": error.reason, "error": error.message}
        _log.log(level, "models are not up to date", extra=extra)


def _why(change: ModelChange, faults: _Faults) -> str:
    """Return why a change cannot be taken over, or an empty text."""
    return "; ".join(faults[topic].message for topic in sorted({*change.topics, EVERYTHING} & faults.keys()))
