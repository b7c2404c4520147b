"""grpc.health.v1 for a server and each of its services."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, Final

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

LEAVE: Final = timedelta(seconds=0.5)
"""How long NOT_SERVING stands at least before the drain begins, so that those who watch can see it."""
ASKING: Final = timedelta(seconds=5)
"""Who has asked within this time is taken for a load balancer that asks again."""
_MOST: Final = timedelta(seconds=5)
_MOMENT_S: Final = 0.2
"""What a load balancer may need from the answer to the last call that it sends here."""


class Health:
    """What the health service reports; NOT_SERVING until `set_ready(True)`."""

    def __init__(self, server: grpc.aio.Server, services: Sequence[str]) -> None:
        self._checks = _Checks(self.tell)
        self._names = ("", *services)
        self._asking: dict[str, float] = {}
        self._all_told = asyncio.Event()
        self.ready = False
        health_pb2_grpc.add_HealthServicer_to_server(self._checks, server)

    async def set_ready(self, ready: bool) -> None:
        self.ready = ready
        statuses = health_pb2.HealthCheckResponse
        for name in self._names:
            await self._checks.set(name, statuses.SERVING if ready else statuses.NOT_SERVING)

    def tell(self, who: str) -> bool:
        """Return whether the service is ready, and note that *who*, an address, knows it now."""
        if self.ready:
            now = asyncio.get_running_loop().time()
            self._asking = self._recent(now)
            self._asking[who] = now
        else:
            self._asking.pop(who, None)
            if not self._asking:
                self._all_told.set()
        return self.ready

    async def drain(self, within: timedelta) -> None:
        """Report NOT_SERVING from now on, and wait until whoever asks has been told.

        Args:
            within: The longest wait, about; 5 s where it is longer.
        """
        self.ready = False
        self._asking = self._recent(asyncio.get_running_loop().time())
        asked = bool(self._asking)
        self._all_told.clear()
        await self._checks.enter_graceful_shutdown()
        await asyncio.sleep(min(LEAVE, within).total_seconds())
        if asked:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(_MOST, within - LEAVE).total_seconds()):
                    await self._all_told.wait()
            await asyncio.sleep(_MOMENT_S)

    def _recent(self, now: float) -> dict[str, float]:
        return {who: at for who, at in self._asking.items() if at > now - ASKING.total_seconds()}


class _Checks(health.aio.HealthServicer):
    """Notes who has been told.

    Args:
        tell: Called with the address of whoever gets an answer.
    """

    def __init__(self, tell: Callable[[str], bool]) -> None:
        super().__init__()
        self._tell = tell

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802  # the name of the rpc
        answer = await super().Check(request, context)
        self._tell(context.peer())
        return answer
