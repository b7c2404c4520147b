"""An agent with models, called over mutual TLS by the Open Inference Protocol, for its tests."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import httpx
import numpy as np
import pytest
from onnx import TensorProto

from aegis.agent.v1 import model_service_pb2 as model_pb
from aegis.agent.v1 import model_service_pb2_grpc
from aegis_agent.adapters.oip import messages as pb
from aegis_agent.main import running
from aegis_agent.settings import AgentSettings
from aegis_common.errors import ErrorKind
from aegis_common.pki import new_ed25519, public_key_pem, server_dns
from aegis_common.rpc.channel import mesh_channel
from aegis_common.rpc.errors import details_of
from aegis_common.signing import Signer, TrustedKeys
from aegis_common.store.models import ModelStore
from aegis_common.store.objects import ObjectStore
from aegis_common.testing.pki import Mesh
from aegis_common.testing.ports import free_port
from oip_support import SERVICE, identity, infer_request, scores

PROVENANCE = {"labels": ["red", "green", "blue"]}
TYPES = pb.method_types()


class Stack:
    """A running agent with models."""

    def __init__(self, mesh: Mesh, port: int, http_port: int, store: ModelStore) -> None:
        self.mesh, self.port, self.http_port, self.store = mesh, port, http_port, store
        self._channels: dict[str, Any] = {}

    def channel(self, account: str = "sdk") -> Any:
        if account not in self._channels:
            tls = self.mesh.tls(account)
            self._channels[account] = mesh_channel(f"127.0.0.1:{self.port}", service="agent", tls=tls)
        return self._channels[account]

    async def call(self, method: str, request: Any = None, *, account: str = "sdk", **fields: Any) -> Any:
        kind, answer = TYPES[method]
        rpc = self.channel(account).unary_unary(
            f"/{SERVICE}/{method}",
            request_serializer=kind.SerializeToString,
            response_deserializer=answer.FromString,
        )
        timeout = fields.pop("timeout", 60)
        return await rpc(kind(**fields) if request is None else request, timeout=timeout)

    def stream(self, requests: AsyncIterator[Any]) -> Any:
        kind, answer = TYPES["ModelStreamInfer"]
        rpc = self.channel().stream_stream(
            f"/{SERVICE}/ModelStreamInfer",
            request_serializer=kind.SerializeToString,
            response_deserializer=answer.FromString,
        )
        return rpc(requests, timeout=60)

    async def publish(
        self,
        model: str,
        data: bytes,
        *aliases: str,
        version: str = "v1",
        tenant: str = "default",
        kind: str = "onnx",
    ) -> None:
        manifest = await self.store.publish(tenant, model, version, data, format=kind, provenance=PROVENANCE)
        stub = model_service_pb2_grpc.ModelServiceStub(self.channel("blue" if tenant == "blue" else "admin"))
        await stub.PublishModelVersion(
            model_pb.PublishModelVersionRequest(
                parent=f"models/{model}", version=version, sha256=manifest.sha256, aliases=aliases
            )
        )

    def http(self, account: str = "sdk") -> httpx.AsyncClient:
        tls = self.mesh.tls(account)
        context = ssl.create_default_context(cafile=str(tls.bundle))
        context.load_cert_chain(str(tls.cert), str(tls.key))
        return httpx.AsyncClient(
            verify=context, base_url=f"https://127.0.0.1:{self.http_port}", trust_env=False, timeout=60
        )

    async def rest(self, method: str, path: str, *, account: str = "sdk", **options: Any) -> httpx.Response:
        extensions = {"sni_hostname": server_dns("agent", "aegis")}
        async with self.http(account) as http:
            return await http.request(method, path, extensions=extensions, **options)

    async def close(self) -> None:
        await asyncio.gather(*(channel.close() for channel in self._channels.values()))


@asynccontextmanager
async def running_oip(folder: Path) -> AsyncIterator[Stack]:
    mesh = Mesh(folder)
    mesh.write_identities(
        {
            mesh.spiffe_id("blue"): {
                "tenant": "blue",
                "roles": ["operator", "trainer"],
                "via_gateway": True,
            }
        }
    )
    key = new_ed25519(folder / "signing.key")
    (folder / "signing.pem").write_bytes(public_key_pem(key))
    url = f"file://{folder / 'store'}"
    port = free_port()
    settings = AgentSettings(
        **mesh.service_kwargs("agent"),
        model_store_url=url,
        model_trusted_keys=(folder / "signing.pem",),
        plugins=False,
        warm_up=False,
        http_listen=f"127.0.0.1:{port}",
        model_concurrency=1,
    )
    store = ModelStore(ObjectStore.open(url), Signer(key), TrustedKeys())
    async with running(settings) as server:
        made = Stack(mesh, server.port, port, store)
        await made.publish("colours", scores(), "production")
        await made.publish("words", identity(TensorProto.STRING, ["n", 3]), "production")
        await made.publish("halves", identity(TensorProto.FLOAT16, ["n", "m"]), "production")
        yield made
        await made.close()


def row(*values: float) -> Any:
    return np.array([values or (1, 0, 0, 0)], dtype=np.float32)


def ask(model: str = "colours", array: Any = None, **fields: Any) -> Any:
    return infer_request(model, "input", row() if array is None else array, "FP32", **fields)


def outputs(response: Any) -> list[list[float]]:
    shape = response.outputs[0].shape
    return np.frombuffer(response.raw_output_contents[0], np.float32).reshape(shape).tolist()  # type: ignore[no-any-return]


async def failure(call: Awaitable[Any]) -> tuple[ErrorKind, str, dict[str, str]]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    details = details_of(caught.value)
    return details.kind, details.reason, details.metadata
