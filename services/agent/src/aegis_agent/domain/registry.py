"""The registry: which tools there are, for whom, and who is using one right now."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from aegis_agent.domain.admission import Admission
from aegis_agent.domain.errors import ToolNameTaken, UnknownTool
from aegis_agent.domain.tool import Tool

EVERYONE: Final = ""
"""Owner of the tools that every tenant may use."""


class Registration:
    """A tool in use: its admission, and the calls that hold on to it."""

    def __init__(self, tool: Tool) -> None:
        self.tool: Final = tool
        self.admission: Final = Admission(tool.spec)
        self._users = 0
        self._unused = asyncio.Event()
        self._unused.set()

    @contextmanager
    def in_use(self) -> Iterator[None]:
        self._users += 1
        self._unused.clear()
        try:
            yield
        finally:
            self._users -= 1
            if not self._users:
                self._unused.set()

    async def retire(self) -> None:
        """Let the calls that hold on to the tool finish, then close it."""
        await self._unused.wait()
        await self.tool.runner.close()


class Registry:
    """Tools by owner and name. A name of everyone's cannot be a tenant's too."""

    def __init__(self) -> None:
        self._tools: dict[str, dict[str, Registration]] = {EVERYONE: {}}

    def add(self, tool: Tool) -> None:
        """Add a tool for every tenant.

        Raises:
            ToolNameTaken: Any owner has one of that name.
        """
        name = tool.spec.name
        if any(name in owned for owned in self._tools.values()):
            raise ToolNameTaken(f"there is a tool {name!r} already", tool=name)
        self._tools[EVERYONE][name] = Registration(tool)

    def check_free(self, name: str) -> None:
        """Check that a tenant may have a tool of that name.

        Raises:
            ToolNameTaken: Everyone's tools have it.
        """
        if name in self._tools[EVERYONE]:
            raise ToolNameTaken(f"{name!r} is a tool that is no model; choose another name", tool=name)

    def swap(self, tool: Tool, *, tenant: str) -> Registration | None:
        """Put *tool* in the place of the tenant's tool of that name, in one step.

        Returns:
            What stood there; the caller retires it.

        Raises:
            ToolNameTaken: Everyone's tools have the name.
        """
        self.check_free(tool.spec.name)
        owned = self._tools.setdefault(tenant, {})
        before = owned.get(tool.spec.name)
        owned[tool.spec.name] = Registration(tool)
        return before

    def find(self, name: str, *, tenant: str) -> Registration:
        """Return the tool of that name that *tenant* may use.

        Raises:
            UnknownTool: There is none; the tenant's near matches are named.
        """
        found = self._visible(tenant).get(name)
        if found is None:
            raise UnknownTool.named(name, self._visible(tenant))
        return found

    def tools(self, *, tenant: str) -> list[Tool]:
        """Return the tools that *tenant* may use, ordered by name."""
        visible = self._visible(tenant)
        return [visible[name].tool for name in sorted(visible)]

    def everything(self) -> list[Registration]:
        """Return every registration, for shutdown."""
        return [item for owned in self._tools.values() for item in owned.values()]

    def _visible(self, tenant: str) -> dict[str, Registration]:
        return {**self._tools.get(tenant, {}), **self._tools[EVERYONE]}
