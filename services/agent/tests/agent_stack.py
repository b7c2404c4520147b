"""An agent with tools and a model store, called over mutual TLS, for the tests of its servicers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.struct_pb2 import Struct

from aegis.agent.v1 import agent_service_pb2 as pb
from aegis.agent.v1 import agent_service_pb2_grpc as pb_grpc
from aegis.agent.v1 import artifact_service_pb2_grpc as artifact_pb_grpc
from aegis.agent.v1 import model_service_pb2_grpc as model_pb_grpc
from aegis.agent.v1 import part_pb2
from aegis.agent.v1 import publisher_service_pb2_grpc as publisher_pb_grpc
from aegis_agent.main import running
from aegis_agent.settings import AgentSettings
from aegis_common.errors import ErrorKind
from aegis_common.pki import new_ed25519, public_key_pem
from aegis_common.rpc.channel import mesh_channel
from aegis_common.rpc.errors import details_of
from aegis_common.signing import Signer, TrustedKeys
from aegis_common.store.models import ModelStore
from aegis_common.store.objects import ObjectStore
from aegis_common.testing.pki import Mesh

NAMES = ("add", "spin", "crash", "slow", "make_bytes", "join", "double")
EXTRA_TOOLS = (
    *(f"aegis_agent.testing.tools:{name}" for name in NAMES),
    "zeros=aegis_agent.testing.tools:make_zeros",
)
COUNTING = """
from collections.abc import Iterator
from aegis_agent import Context, tool

@tool(tags=["numbers"])
def countdown(start: int, context: Context) -> Iterator[int]:
    for number in range(start, 0, -1):
        context.progress(start - number, start)
        context.log.info("%d to go", number)
        yield number
"""


class Stack:
    """A running agent, its store, and stubs by account."""

    def __init__(self, mesh: Mesh, port: int, store: ModelStore) -> None:
        self.mesh = mesh
        self.port = port
        self.store = store
        self._channels: list[grpc.aio.Channel] = []

    def agent(self, account: str = "sdk") -> pb_grpc.AgentServiceAsyncStub:
        return pb_grpc.AgentServiceStub(self._channel(account))

    def models(self, account: str = "sdk") -> model_pb_grpc.ModelServiceAsyncStub:
        return model_pb_grpc.ModelServiceStub(self._channel(account))

    def artifacts(self, account: str = "sdk") -> artifact_pb_grpc.ArtifactServiceAsyncStub:
        return artifact_pb_grpc.ArtifactServiceStub(self._channel(account))

    def publishers(self, account: str = "sdk") -> publisher_pb_grpc.PublisherServiceAsyncStub:
        return publisher_pb_grpc.PublisherServiceStub(self._channel(account))

    def _channel(self, account: str) -> grpc.aio.Channel:
        target = f"127.0.0.1:{self.port}"
        self._channels.append(mesh_channel(target, service="agent", tls=self.mesh.tls(account)))
        return self._channels[-1]

    async def close(self) -> None:
        await asyncio.gather(*(channel.close() for channel in self._channels))


@asynccontextmanager
async def running_stack(folder: Path, **changes: Any) -> AsyncIterator[Stack]:
    mesh = Mesh(folder)
    mesh.write_identities(
        {
            mesh.spiffe_id(account): {"tenant": tenant, "roles": [role], "via_gateway": True}
            for account, tenant, role in (
                ("blue", "blue", "operator"),
                ("blue-trainer", "blue", "trainer"),
                ("other-trainer", "default", "trainer"),
            )
        }
    )
    key = new_ed25519(folder / "signing.key")
    trusted = folder / "signing.pem"
    trusted.write_bytes(public_key_pem(key))
    url = f"file://{folder / 'store'}"
    (folder / "tools").mkdir()
    (folder / "tools" / "numbers.py").write_text(COUNTING)
    new_ed25519(folder / "records.key")
    fields: dict[str, Any] = {
        **mesh.service_kwargs("agent"),
        "model_store_url": url,
        "model_trusted_keys": (trusted,),
        "records_key": folder / "records.key",
        "tools": EXTRA_TOOLS,
        "tools_dir": folder / "tools",
        "tenant_weights": {"default": 2},
        "child_slots": 16,
        "plugins": False,
        "warm_up": False,
    }
    settings = AgentSettings(**(fields | changes))
    store = ModelStore(ObjectStore.open(url), Signer(key), TrustedKeys())
    async with running(settings) as server:
        made = Stack(mesh, server.port, store)
        yield made
        await made.close()


def action(tool: str, *parts: part_pb2.Part, **arguments: Any) -> pb.DispatchRequest:
    payload = list(parts)
    if arguments:
        struct = Struct()
        struct.update(arguments)
        payload.append(part_pb2.Part(json=struct))
    return pb.DispatchRequest(tool=f"tools/{tool}", payload=payload)


async def failure(call: Awaitable[Any]) -> tuple[ErrorKind, str, dict[str, str]]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    details = details_of(caught.value)
    return details.kind, details.reason, details.metadata
