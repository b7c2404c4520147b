"""One tool of some workers, and how a call gets to one of them."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any, Final

from aegis_agent.adapters.remote.errors import NoWorker, WorkerLost
from aegis_agent.adapters.remote.session import Session, Unfinished
from aegis_agent.domain.call import Call
from aegis_agent.domain.registry import Registration
from aegis_agent.domain.tool import ToolSpec

_log: Final = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Group:
    """Workers that bring one tool in one version, described alike.

    Attributes:
        registration: Its place in the registry, while new calls go to it.
        waiting: Calls that have a slot of the tool and wait for a worker's credit.
    """

    owner: str
    spec: ToolSpec
    digest: str
    sessions: list[Session] = field(default_factory=list)
    registration: Registration | None = None
    waiting: deque[asyncio.Future[None]] = field(default_factory=deque)

    @property
    def capacity(self) -> int:
        name = self.spec.name
        return max(1, sum(min(item.credit, item.concurrency.get(name, 0)) for item in self.sessions))

    @property
    def capacity_here(self) -> int:
        """Most calls at once at workers of this replica; 0 when there is none."""
        name = self.spec.name
        here = [item for item in self.sessions if item.local]
        return sum(min(item.credit, item.concurrency.get(name, 0)) for item in here)

    async def take(self, *, here: bool) -> Session:
        """Return the worker with the most free credit, with one of it reserved; those that are here first.

        Args:
            here: Other replicas do not count.

        Raises:
            NoWorker: The last one has left.
        """
        name = self.spec.name
        while True:
            found = [item for item in self.sessions if item.local or not here]
            best = max(
                found,
                key=lambda item: (item.local and item.free(name) > 0, item.free(name)),
                default=None,
            )
            if best is None:
                raise NoWorker.of(name)
            if best.free(name) > 0:
                best.reserve(name)
                return best
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self.wake()  # the turn was this call's, and it has no use for it
                raise
            finally:
                if turn in self.waiting:
                    self.waiting.remove(turn)

    def wake(self) -> None:
        """Let the waiting calls look again: all when there is nobody left, else as many as have a chance."""
        name = self.spec.name
        chances = sum(max(0, item.free(name)) for item in self.sessions) if self.sessions else None
        while self.waiting and (chances is None or chances > 0):
            turn = self.waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                chances = None if chances is None else chances - 1


class RemoteRunner:
    """Runs the calls of one tool at its workers; a `Runner` of the domain.

    Args:
        group: The workers.
        here: Other replicas do not count.
    """

    def __init__(self, group: Group, *, here: bool = False) -> None:
        self._group = group
        self._here = here

    async def run(self, call: Call) -> Any:
        """Run a call at the worker with the most free credit.

        A call whose worker goes away is given to another one when it cannot have begun, or when running it
        again does no harm and nothing of its result was passed on; a job has attempts of its own.

        Raises:
            WorkerLost: The worker went away while the call ran.
            NoWorker: There is none left.
            AegisError: What the worker reports.
        """
        spec = self._group.spec
        number = call.attempt
        while True:
            session = await self._group.take(here=self._here)
            try:
                return await session.run(spec.name, replace(call, attempt=number))
            except Unfinished as error:
                again = spec.idempotent and not call.job and not error.given
                if error.sent and not (again and self._group.sessions):
                    raise WorkerLost(
                        f"tool {spec.name!r}: worker {session.name!r} was lost while it ran the call"
                        + ("" if spec.idempotent else "; the tool is not idempotent, so only you can retry"),
                        tool=spec.name,
                        worker=session.name,
                        attempt=str(number),
                    ) from None
                number += error.sent
                _log.warning("call goes to another worker", extra={"tool": spec.name, "worker": session.name})

    async def close(self) -> None:
        """Nothing is held: the workers' streams are not the tool's."""
