"""A publisher of signed models, and an agent that serves them, for tests of models."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from aegis_agent import AgentManager
from aegis_agent.adapters.models.library import StoredModels
from aegis_agent.adapters.models.loader import OnnxLoader
from aegis_agent.adapters.models.options import ModelOptions
from aegis_agent.adapters.models.publisher_keys import StoredPublisherKeys
from aegis_agent.domain.call import Caller
from aegis_agent.domain.dispatch import Action
from aegis_agent.domain.models import Models
from aegis_agent.domain.publishers import Owner, PublisherKey, Publishers
from aegis_agent.domain.result import Result
from aegis_common.pki import new_ed25519
from aegis_common.publisher_proof import proof_text
from aegis_common.signing import Signer, TrustedKeys
from aegis_common.store.manifest import Manifest, seal
from aegis_common.store.models import ModelStore
from aegis_common.store.objects import ObjectStore
from aegis_common.store.sealed import RecordSeal

PROVENANCE = {"domain": "test rows", "labels": ["red", "green", "blue"], "accuracy": 0.9}
NONE_TRUSTED = TrustedKeys()


ADA = Owner("default", "ada", frozenset({"trainer"}))


class Publisher:
    """What the coordinator does: puts signed versions into the store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "store"
        self.objects = ObjectStore.open(f"file://{self.folder}")
        self.signer = Signer(new_ed25519(folder / "signing.key"))
        self.seal = RecordSeal(Signer(new_ed25519(folder / "records.key")))
        self.now = datetime(2026, 11, 25, tzinfo=UTC)

    @property
    def trusted(self) -> TrustedKeys:
        return TrustedKeys([self.signer.public_key])

    def _tick(self) -> datetime:
        self.now += timedelta(minutes=1)
        return self.now

    def publishers(self) -> Publishers:
        """Return the keys of all tenants, as an agent decides about them."""
        keys = StoredPublisherKeys(self.objects, self.seal)
        library = StoredModels(self.objects, self.trusted, keys=keys, max_model_bytes=1 << 20)
        return Publishers(keys, library.announce_keys)

    async def enrolled(self, owner: Owner = ADA) -> Signer:
        """Return what signs with a new key that *owner* has enrolled."""
        signer = Signer(Ed25519PrivateKey.generate())
        await enroll(self.publishers(), signer, owner)
        return signer

    async def put(
        self,
        version: str,
        data: bytes,
        *,
        tenant: str = "default",
        signer: Signer | None = None,
        **changes: Any,
    ) -> str:
        store = ModelStore(self.objects, signer or self.signer, NONE_TRUSTED, clock=self._tick)
        fields = {"format": "onnx", "provenance": PROVENANCE, "model": "colours"} | changes
        model = fields.pop("model")
        manifest = await store.publish(tenant, model, version, data, **fields)
        return manifest.sha256


async def enroll(
    publishers: Publishers, signer: Signer, owner: Owner, *, proved_for: Owner | None = None
) -> PublisherKey:
    """Enroll the key of *signer*, with a proof for *owner* or for somebody else."""
    public = raw(signer)
    named = proved_for or owner
    proof = base64.b64decode(signer.sign(proof_text(named.tenant, named.subject, public)))
    return await publishers.enroll(
        owner, public, key_id=signer.key_id, proof=proof, description=f"of {owner.subject}"
    )


def signed(
    signer: Signer, data: bytes, *, version: str = "v1", model: str = "colours", **changes: Any
) -> bytes:
    """Return the envelope of a manifest of *data* for the tenant `default`."""
    fields: dict[str, Any] = {
        "tenant": "default",
        "model": model,
        "version": version,
        "sha256": hashlib.sha256(data).hexdigest(),
        "size_bytes": len(data),
        "format": "onnx",
        "created_at": datetime(2026, 11, 25, tzinfo=UTC),
        "provenance": PROVENANCE,
        "signer_key_id": signer.key_id,
    }
    return seal(Manifest(**(fields | changes)), signer)


def raw(signer: Signer) -> bytes:
    """Return the 32 bytes of the public half."""
    return signer.public_key.public_bytes(Encoding.Raw, PublicFormat.Raw)


@asynccontextmanager
async def agent(
    publisher: Publisher, *, trusted: TrustedKeys | None = None
) -> AsyncIterator[tuple[AgentManager, Models]]:
    async with AgentManager() as manager:
        library = StoredModels(
            publisher.objects,
            trusted or publisher.trusted,
            keys=StoredPublisherKeys(publisher.objects, publisher.seal),
            max_model_bytes=1 << 20,
        )
        loader = OnnxLoader(manager.fork_server, ModelOptions())
        models = Models(library, loader, manager.registry, sync_every=timedelta(milliseconds=200))
        await models.start()
        try:
            yield manager, models
        finally:
            await models.close()


async def publish(
    models: Models,
    publisher: Publisher,
    version: str,
    data: bytes,
    *aliases: str,
    tenant: str = "default",
    **changes: Any,
) -> None:
    sha256 = await publisher.put(version, data, tenant=tenant, **changes)
    name = changes.get("model", "colours")
    await models.changes.publish(name, version, sha256=sha256, aliases=aliases, tenant=tenant, by="tester")


async def ask(manager: AgentManager, rows: list[list[float]], *, tenant: str = "default") -> Result:
    return await manager.dispatcher.dispatch(Action("colours", {"input": rows}), caller=Caller(tenant=tenant))
