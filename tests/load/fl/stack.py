"""A coordinator as a process of its own, a carbon service of a few lines, and runs made through the API."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import psutil

from aegis.carbon.v1 import carbon_service_pb2_grpc as carbon_grpc
from aegis.fl.v1 import training_service_pb2 as pb
from aegis_common.pki import new_ed25519
from aegis_common.rpc.server import serving
from aegis_common.settings import ServiceSettings
from aegis_common.testing.pki import Mesh
from aegis_common.testing.ports import free_port
from aegis_fl_coordinator.adapters.apps import FolderCatalogue
from aegis_fl_coordinator.testing.peers import Carbon
from aegis_fl_coordinator.testing.processes import Processes, Stubs

APP: Final = Path(__file__).parent / "mnist2nn"
_PREFIX: Final = "AEGIS_FL_COORDINATOR_"
_FAST: Final = 60.0


@dataclass
class Stack:
    """Starts and kills the coordinator; its volume stays."""

    mesh: Mesh
    carbon: Carbon
    processes: Processes
    folder: Path
    port: int = 0
    process: psutil.Popen | None = None

    async def start(self) -> None:
        self.port = free_port()
        tls = self.mesh.tls("fl-serverapp")
        values = {
            "LISTEN": f"127.0.0.1:{self.port}",
            "DATA_DIR": self.folder / "volume",
            "SUPERLINK": "127.0.0.1:1",
            "SUPERLINK_CA": self.mesh.ca.bundle,
            "SERVERAPP_TLS__CERT": tls.cert,
            "SERVERAPP_TLS__KEY": tls.key,
            "SERVERAPP_TLS__BUNDLE": tls.bundle,
            "CARBON": f"127.0.0.1:{self.carbon.port}",
            "AGENT": "127.0.0.1:1",
            "MODEL_STORE": (self.folder / "models").as_uri(),
            "SIGNING_KEY": self.folder / "signing.key",
            "IN_PROCESS": "true",
            "APP_DIRS": json.dumps([str(APP)]),
            "APPROVED_APPS": json.dumps([_digest()]),
            "LOOK": 0.2,
        }
        environment = self.mesh.service_env(_PREFIX, "fl-coordinator")
        environment |= {_PREFIX + name: str(value) for name, value in values.items()}
        command = [str(Path(sys.executable).with_name("aegis-fl-coordinator"))]
        self.process = self.processes.start("coordinator", command, environment)
        async with self.stubs():
            return

    async def kill(self) -> None:
        """End the coordinator by SIGKILL; its children end by themselves."""
        if self.process is None:
            return
        tree = [self.process, *self.process.children(recursive=True)]
        self.process.kill()
        await asyncio.to_thread(psutil.wait_procs, tree, 30)

    @asynccontextmanager
    async def stubs(self) -> AsyncIterator[Stubs]:
        async with self.mesh.channel(self.port, "fl-coordinator", account="sdk") as channel:
            await asyncio.wait_for(channel.channel_ready(), _FAST)
            yield Stubs(channel)

    async def create(self, config: dict[str, Any], **fields: Any) -> str:
        run = pb.TrainingRun(app=APP.name, engine=pb.TrainingRun.ENGINE_IN_PROCESS, **fields)
        run.app_config.update(config)
        async with self.stubs() as stubs:
            request = pb.CreateTrainingRunRequest(training_run=run)
            return (await stubs.training.CreateTrainingRun(request)).training_run.name

    async def rounds(self, name: str) -> AsyncIterator[pb.Round]:
        """Yield the rounds of a run as they come; raise when it fails."""
        async with self.stubs() as stubs:
            async for event in stubs.training.WatchTrainingRun(pb.WatchTrainingRunRequest(name=name)):
                kind = event.WhichOneof("event")
                if kind == "round":
                    yield event.round
                elif kind == "end" and event.end.state != pb.TrainingRun.STATE_SUCCEEDED:
                    raise RuntimeError(f"{name}: {event.end.state_message}")

    async def cancel(self, name: str) -> None:
        async with self.stubs() as stubs:
            await stubs.training.CancelTrainingRun(pb.CancelTrainingRunRequest(name=name))


@asynccontextmanager
async def stack(folder: Path, carbon: Carbon) -> AsyncIterator[Stack]:
    """Yield a running coordinator whose volume lies in *folder*."""
    mesh = Mesh(folder / "mesh")
    new_ed25519(folder / "signing.key")
    settings = ServiceSettings(**mesh.service_kwargs("carbon"), drain=timedelta(0), log_level="WARNING")
    add = [(carbon_grpc.add_CarbonServiceServicer_to_server, carbon)]
    processes = Processes(folder)
    try:
        async with serving(settings, name="carbon", add=add) as server:
            carbon.port = server.port
            found = Stack(mesh, carbon, processes, folder)
            await found.start()
            yield found
    finally:
        processes.stop()


def _digest() -> str:
    return FolderCatalogue([APP]).get(APP.name).sha256
