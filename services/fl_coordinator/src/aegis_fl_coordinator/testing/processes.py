"""Real processes that leave nothing behind, and the coordinator under test."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc.aio
import psutil

from aegis.fl.v1 import app_service_pb2_grpc as app_grpc
from aegis.fl.v1 import node_service_pb2_grpc as node_grpc
from aegis.fl.v1 import round_service_pb2_grpc as round_grpc
from aegis.fl.v1 import training_service_pb2_grpc as training_grpc
from aegis_common.testing.pki import Mesh
from aegis_fl_coordinator.adapters.flower_control import FlowerControl
from aegis_fl_coordinator.settings import Settings

HANG_S: Final = 60.0


class Stubs:
    """Clients of a coordinator, as one account."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.training = training_grpc.TrainingServiceStub(channel)
        self.apps = app_grpc.AppServiceStub(channel)
        self.nodes = node_grpc.NodeServiceStub(channel)
        self.rounds = round_grpc.RoundServiceStub(channel)


@dataclass
class Coordinator:
    """A running coordinator and the way to it."""

    mesh: Mesh
    settings: Settings
    port: int
    stack: AsyncExitStack

    async def as_account(self, account: str) -> Stubs:
        channel = self.mesh.channel(self.port, "fl-coordinator", account=account)
        return Stubs(await self.stack.enter_async_context(channel))


Coordinate = Callable[..., AbstractAsyncContextManager[Coordinator]]


async def until(check: Callable[[], Awaitable[bool]], *, within: float = HANG_S) -> None:
    async with asyncio.timeout(within):
        while not await check():  # noqa: ASYNC110  # what it waits for is another process
            await asyncio.sleep(0.05)


class Processes:
    """Child processes of a test; none is left behind, nor any of theirs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: list[psutil.Popen] = []

    def start(self, name: str, command: list[str], environment: dict[str, str]) -> psutil.Popen:
        with (self.folder / f"{name}.log").open("ab") as log:
            process = psutil.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        self.running.append(process)
        return process

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text("utf-8", "replace")

    def stop(self) -> None:
        tree: list[psutil.Process] = [*self.running]
        for parent in self.running:
            with contextlib.suppress(psutil.NoSuchProcess):
                tree += parent.children(recursive=True)
        for process in tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(tree, timeout=10)


@dataclass
class SuperLink:
    """A real SuperLink."""

    port: int
    control: FlowerControl


StartSuperLink = Callable[[], Awaitable[SuperLink]]
