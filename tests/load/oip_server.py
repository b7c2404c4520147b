"""One of our servers for the bench: the whole agent, or the bare servicer without any chain.

Usage: oip_server.py full|bare FOLDER
Prints a JSON line with its port when it serves, and ends with its standard input.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from aegis_agent.adapters.models.library import StoredModels
from aegis_agent.adapters.models.loader import OnnxLoader
from aegis_agent.adapters.models.options import ModelOptions
from aegis_agent.adapters.oip.repository import Repository
from aegis_agent.adapters.oip.servicer import InferenceServicer, add_to_server
from aegis_agent.domain.inferences import Inferences
from aegis_agent.domain.models import Models
from aegis_agent.domain.replicas import Alone
from aegis_agent.main import running
from aegis_agent.manager import AgentManager
from aegis_agent.settings import AgentSettings
from aegis_common.auth.principal import Principal
from aegis_common.pki import new_ed25519, public_key_pem
from aegis_common.rpc.access import method_table
from aegis_common.rpc.call import Call, enter_call
from aegis_common.signing import Signer, TrustedKeys
from aegis_common.store.models import ModelStore
from aegis_common.store.objects import ObjectStore
from aegis_common.testing.pki import Mesh

ALIAS = "production"


async def put(folder: Path) -> tuple[str, Path, TrustedKeys]:
    """Put every model of *folder* into a store, with its alias; return what the agent needs to find it."""
    url = f"file://{folder / 'store'}"
    key, trusted = new_ed25519(folder / "signing.key"), folder / "signing.pem"
    trusted.write_bytes(public_key_pem(key))
    keys = TrustedKeys([key.public_key()])
    objects = ObjectStore.open(url)
    store = ModelStore(objects, Signer(key), TrustedKeys())
    library = StoredModels(objects, keys, max_model_bytes=1 << 30)
    for file in sorted(folder.glob("*.onnx")):
        await store.publish("default", file.stem, "v1", file.read_bytes(), format="onnx", provenance={})
        await library.remember(await library.version("default", file.stem, "v1"), by="bench")
        await library.set_alias("default", file.stem, ALIAS, "v1", by="bench")
    return url, trusted, keys


async def full(folder: Path) -> None:
    mesh = Mesh(folder)
    url, trusted, _ = await put(folder)
    settings = AgentSettings(
        **mesh.service_kwargs("agent"),
        model_store_url=url,
        model_trusted_keys=(trusted,),
        model_queue_size=1024,
        plugins=False,
        warm_up=False,
    )
    mesh.tls("sdk")
    async with running(settings) as server:
        await told(server.port)


class Anybody(grpc.aio.ServerInterceptor):
    """Lets everybody in as an admin: what the servicer needs to know of a call, and nothing else."""

    def __init__(self) -> None:
        roles = frozenset({"admin"})
        self._who = Principal(spiffe_id="", subject="bench", tenant="default", roles=roles)
        self._table = method_table()

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> Any:
        handler = await continuation(handler_call_details)
        rule, inner = self._table[handler_call_details.method], handler.unary_unary

        async def run(request: Any, context: Any) -> Any:
            call = Call.begin(rule, metadata=(), peer_spiffe_id="", timeout_s=None)
            call.principal = self._who
            enter_call(call)
            return await inner(request, context)

        return grpc.unary_unary_rpc_method_handler(
            run, handler.request_deserializer, handler.response_serializer
        )


async def bare(folder: Path) -> None:
    url, _, keys = await put(folder)
    async with AgentManager() as manager:
        library = StoredModels(ObjectStore.open(url), keys, max_model_bytes=1 << 30)
        loader = OnnxLoader(manager.fork_server, ModelOptions(queue_size=1024))
        models = Models(library, loader, manager.registry)
        await models.start()
        server = grpc.aio.server(interceptors=[Anybody()])
        repository = Repository(models, Alone())
        add_to_server(InferenceServicer(Inferences(models), repository, version="bench"), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        await told(port)
        await server.stop(0)
        await models.close()


async def told(port: int) -> None:
    sys.stdout.write(json.dumps({"port": port}) + "\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    kind, where = sys.argv[1:]
    asyncio.run({"full": full, "bare": bare}[kind](Path(where)))
