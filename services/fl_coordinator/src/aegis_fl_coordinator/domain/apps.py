"""Which apps may run for whom: an app is code, so it runs by approved digest only."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Protocol

from aegis_common.clock import Clock
from aegis_common.errors import AegisError
from aegis_fl_coordinator.domain.errors import AppChanged, AppNotApproved, UnknownApp
from aegis_fl_coordinator.domain.ports import AppBundle, AppCatalogue


@dataclass(frozen=True, slots=True)
class Decision:
    """What an admin decided about a digest of an app.

    Attributes:
        approved: False when the approval was taken back.
        by: Subject of the admin.
    """

    tenant: str
    app: str
    sha256: str
    approved: bool
    by: str
    time: datetime


class Decisions(Protocol):
    """Where decisions are kept: the newest for each tenant, app and digest."""

    def find(self, tenant: str, app: str, sha256: str) -> Decision | None: ...
    def put(self, decision: Decision) -> None:
        """Keep a decision; durable when this returns."""
        ...


class AppState(Enum):
    APPROVED = "approved"
    NOT_APPROVED = "not_approved"
    REVOKED = "revoked"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class AppStatus:
    """An installed app, as it stands for one tenant.

    Attributes:
        sha256: Digest of its bundle; empty when it is broken.
        decision: The admin's, or None when nobody decided.
        fault: Why it is broken, or empty.
    """

    name: str
    sha256: str
    state: AppState
    decision: Decision | None = None
    fault: str = ""


class Apps:
    """The installed apps; every method sees the approvals of one tenant only."""

    def __init__(self, *, catalogue: AppCatalogue, decisions: Decisions, clock: Clock) -> None:
        self._catalogue = catalogue
        self._decisions = decisions
        self._clock = clock

    async def get(self, tenant: str, name: str) -> AppBundle:
        """Return an app that may run.

        Raises:
            UnknownApp: No app of that name is installed.
            BrokenApp: It cannot run under a coordinator.
            AppNotApproved: Its digest is not approved.
        """
        app = await asyncio.to_thread(self._catalogue.get, name)
        state = self._status(tenant, app).state
        if state is not AppState.APPROVED:
            how = "was revoked" if state is AppState.REVOKED else "is not approved"
            raise AppNotApproved(
                f"app {name!r} with digest {app.sha256} {how}; an admin who has reviewed it lets it run: "
                f"aegis fl app approve {name} {app.sha256}",
                app=name,
                sha256=app.sha256,
            )
        return app

    async def list(self, tenant: str) -> list[AppStatus]:
        """Return the installed apps, ordered by name."""
        return [await self.status(tenant, name) for name in self._catalogue.names()]

    async def status(self, tenant: str, name: str) -> AppStatus:
        """Return how an app stands.

        Raises:
            UnknownApp: No app of that name is installed.
        """
        try:
            app = await asyncio.to_thread(self._catalogue.get, name)
        except UnknownApp:
            raise
        except AegisError as error:
            return AppStatus(name, "", AppState.BROKEN, fault=error.message)
        return self._status(tenant, app)

    async def approve(self, tenant: str, name: str, sha256: str, *, by: str) -> AppStatus:
        """Let an app run, as long as it has this digest.

        Raises:
            UnknownApp: No app of that name is installed.
            BrokenApp: It cannot run under a coordinator.
            AppChanged: It has another digest.
        """
        app = await asyncio.to_thread(self._catalogue.get, name)
        if app.sha256 != sha256:
            raise AppChanged(
                f"app {name!r} has digest {app.sha256}, not {sha256}: review what is installed now",
                app=name,
                sha256=app.sha256,
            )
        self._decisions.put(Decision(tenant, name, sha256, True, by, self._clock()))
        return self._status(tenant, app)

    async def revoke(self, tenant: str, name: str, sha256: str, *, by: str) -> tuple[AppStatus, str]:
        """Let a digest of an app run no more; return the installed app and the digest.

        Args:
            tenant: For whom.
            name: Of the app.
            sha256: The digest; empty for that of the installed app.
            by: Who decides.

        Raises:
            UnknownApp: No app of that name is installed.
        """
        installed = await self.status(tenant, name)
        revoked = sha256 or installed.sha256
        if revoked:  # a broken app has none, and runs for nobody
            self._decisions.put(Decision(tenant, name, revoked, False, by, self._clock()))
        return await self.status(tenant, name), revoked

    def _status(self, tenant: str, app: AppBundle) -> AppStatus:
        decision = self._decisions.find(tenant, app.name, app.sha256)
        if decision is not None:
            state = AppState.APPROVED if decision.approved else AppState.REVOKED
        else:
            state = AppState.APPROVED if self._catalogue.vetted(app) else AppState.NOT_APPROVED
        return AppStatus(app.name, app.sha256, state, decision)
