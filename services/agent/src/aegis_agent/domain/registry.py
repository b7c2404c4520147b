"""The registry: which tools there are, for whom, and who is using one right now."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

from aegis_agent.domain.admission import EQUAL, Admission
from aegis_agent.domain.call import Caller
from aegis_agent.domain.errors import ToolNameTaken, ToolNotAllowed, UnknownTool
from aegis_agent.domain.fair_queue import Weights
from aegis_agent.domain.rooms import Key, Rooms
from aegis_agent.domain.slots import Slots
from aegis_agent.domain.tool import RunsIn, Tool, ToolSpec

EVERYONE: Final = ""
"""Owner of the tools that are no single tenant's."""

_LOADS_AT_ONCE: Final = 4


class Registration:
    """A tool in use: its admission, and the calls that hold on to it.

    Attributes:
        live: False from the moment that calls no longer find it.
        loading: Held by the few calls that bring artifacts into memory just then.
    """

    def __init__(self, tool: Tool, weights: Weights = EQUAL) -> None:
        self.tool: Final = tool
        self.live = True
        self.admission: Final = Admission(tool.spec, weights=weights)
        self.loading: Final = asyncio.Semaphore(_LOADS_AT_ONCE)
        self._users = 0
        self._unused = asyncio.Event()
        self._unused.set()

    def in_use(self) -> AbstractContextManager[None]:
        """Hold on to the tool: it is not closed within the block."""
        return _Use(self)

    def enter(self) -> None:
        """Begin a use; see `in_use`."""
        self._users += 1
        self._unused.clear()

    def leave(self) -> None:
        """End a use."""
        self._users -= 1
        if not self._users:
            self._unused.set()

    async def retire(self) -> None:
        """Let the calls that hold on to the tool finish, then close it."""
        await self._unused.wait()
        await self.tool.runner.close()


class _Use:
    """A tool in use; a class, for a generator would cost each call more."""

    __slots__ = ("_registration",)

    def __init__(self, registration: Registration) -> None:
        self._registration = registration

    def __enter__(self) -> None:
        self._registration.enter()

    def __exit__(self, *exception: object) -> None:
        self._registration.leave()


@dataclass(frozen=True, slots=True)
class Change:
    """A tool has come, gone, or been replaced.

    Attributes:
        owner: Tenant whose tool it is, or `EVERYONE`.
        before: What stood there, or None.
        after: What stands there now, or None.
    """

    owner: str
    before: Registration | None
    after: Registration | None


Listener = Callable[[Change], None]


class Registry:
    """Tools by owner and name. A name of everyone's cannot be a tenant's too.

    Args:
        weights: Shares of tenants where calls wait.
    """

    def __init__(self, weights: Weights = EQUAL) -> None:
        self._weights = weights
        self._tools: dict[str, dict[str, Registration]] = {EVERYONE: {}}
        self._listeners: list[Listener] = []

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call *listener* after each change, in the event loop; return what ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def add(self, tool: Tool) -> None:
        """Add a tool for every tenant.

        Raises:
            ToolNameTaken: Any owner has one of that name.
        """
        name = tool.spec.name
        self.check_replaceable(name)
        if name in self._tools[EVERYONE]:
            raise ToolNameTaken(f"there is a tool {name!r} already", tool=name)
        self._put(EVERYONE, tool)

    def check_replaceable(self, name: str) -> None:
        """Check that no tenant has a tool of that name.

        Raises:
            ToolNameTaken: One has.
        """
        if any(name in owned for owner, owned in self._tools.items() if owner != EVERYONE):
            raise ToolNameTaken(f"there is a tool {name!r} already", tool=name)

    def replace(self, tool: Tool) -> Registration | None:
        """Put *tool* in the place of everyone's tool of that name, in one step; calls from now on go to it.

        Returns:
            What stood there, or None; the caller retires it.

        Raises:
            ToolNameTaken: A tenant has a tool of that name.
        """
        self.check_replaceable(tool.spec.name)
        return self._put(EVERYONE, tool)

    def remove(self, name: str, *, owner: str = EVERYONE) -> Registration:
        """Take a tool out, in one step; the caller retires it.

        Raises:
            UnknownTool: The owner has none of that name.
        """
        owned = self._tools.get(owner, {})
        if name not in owned:
            raise UnknownTool.named(name, owned)
        before = owned.pop(name)
        self._tell(Change(owner, before, None))
        return before

    def check_free(self, name: str) -> None:
        """Check that a tenant may have a tool of that name.

        Raises:
            ToolNameTaken: Everyone's tools have it.
        """
        if name in self._tools[EVERYONE]:
            raise ToolNameTaken(
                f"{name!r} is a tool of the agent itself, for everyone; choose another name", tool=name
            )

    def swap(self, tool: Tool, *, tenant: str) -> Registration | None:
        """Put *tool* in the place of the tenant's tool of that name, in one step.

        Returns:
            What stood there; the caller retires it.

        Raises:
            ToolNameTaken: Everyone's tools have the name.
        """
        self.check_free(tool.spec.name)
        return self._put(tenant, tool)

    def find(self, name: str, *, caller: Caller) -> Registration:
        """Return the tool of that name for *caller* to use.

        Raises:
            UnknownTool: The caller's tenant has none; near matches that the caller may use are named.
            ToolNotAllowed: The tool is for other roles.
        """
        found = self._tools[EVERYONE].get(name) or self._tools.get(caller.tenant, {}).get(name)
        if found is None or not _of_tenant(found.tool.spec, caller):
            raise UnknownTool.named(name, self._usable(caller))
        if not _has_role(found.tool.spec, caller):
            raise ToolNotAllowed.of(name, found.tool.spec.roles)
        return found

    def tools(self, *, caller: Caller) -> list[Tool]:
        """Return the tools that *caller* may use, ordered by name."""
        usable = self._usable(caller)
        return [usable[name].tool for name in sorted(usable)]

    def owned(self, name: str, *, owner: str) -> Registration | None:
        """Return the owner's own tool of that name, or None."""
        return self._tools.get(owner, {}).get(name)

    def everything(self) -> list[Registration]:
        """Return every registration, for shutdown and for measurements; safe from any thread."""
        return [item for owned in tuple(self._tools.values()) for item in tuple(owned.values())]

    def rooms(self, shared: Slots | None, *, coming: Mapping[Key, int]) -> Rooms:
        """Return how many more calls would start at once.

        Args:
            shared: Slots that calls in child processes need as well; None means that there is no bound.
            coming: Calls by tenant and tool that are about to ask for a slot.
        """
        free: dict[Key, int] = {}
        sharing: set[Key] = set()
        for owner, owned in self._tools.items():
            for name, item in owned.items():
                free[owner, name] = item.admission.room
                if item.tool.spec.runs_in is RunsIn.CHILD:
                    sharing.add((owner, name))
        left = None if shared is None else shared.room
        for (tenant, name), count in coming.items():
            key = (EVERYONE, name) if (EVERYONE, name) in free else (tenant, name)
            free[key] = max(0, free.get(key, 0) - count)
            if left is not None and key in sharing:
                left = max(0, left - count)
        return Rooms(free, sharing, left)

    def _put(self, owner: str, tool: Tool) -> Registration | None:
        owned = self._tools.setdefault(owner, {})
        before = owned.get(tool.spec.name)
        after = owned[tool.spec.name] = Registration(tool, self._weights)
        self._tell(Change(owner, before, after))
        return before

    def _tell(self, change: Change) -> None:
        if change.before is not None:
            change.before.live = False
        for listener in tuple(self._listeners):
            listener(change)

    def _usable(self, caller: Caller) -> dict[str, Registration]:
        visible = {**self._tools.get(caller.tenant, {}), **self._tools[EVERYONE]}
        return {
            name: item
            for name, item in visible.items()
            if _of_tenant(item.tool.spec, caller) and _has_role(item.tool.spec, caller)
        }


def _of_tenant(spec: ToolSpec, caller: Caller) -> bool:
    return not spec.tenants or caller.tenant in spec.tenants


def _has_role(spec: ToolSpec, caller: Caller) -> bool:
    return not spec.roles or not spec.roles.isdisjoint(caller.roles)
