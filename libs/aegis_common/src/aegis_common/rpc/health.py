"""grpc.health.v1 for a server and each of its services."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

LEAVE: Final = timedelta(seconds=0.5)
"""How long NOT_SERVING stands before the drain begins, so that load balancers can see it."""


class Health:
    """What the health service reports; NOT_SERVING until `set_ready(True)`."""

    def __init__(self, server: grpc.aio.Server, services: Sequence[str]) -> None:
        self._checks = health.aio.HealthServicer()
        self._names = ("", *services)
        self.ready = False
        health_pb2_grpc.add_HealthServicer_to_server(self._checks, server)

    async def set_ready(self, ready: bool) -> None:
        self.ready = ready
        statuses = health_pb2.HealthCheckResponse
        for name in self._names:
            await self._checks.set(name, statuses.SERVING if ready else statuses.NOT_SERVING)

    async def drain(self, within: timedelta) -> None:
        """Report NOT_SERVING from now on, and give callers a moment to notice, at most *within*."""
        self.ready = False
        await self._checks.enter_graceful_shutdown()
        await asyncio.sleep(min(LEAVE, within).total_seconds())
