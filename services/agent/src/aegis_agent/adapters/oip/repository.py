"""Loads and unloads models on all replicas, for both forms of the protocol."""

from __future__ import annotations

from aegis_agent.adapters.replicas.answers import insist
from aegis_agent.domain.models import Models
from aegis_agent.domain.replicas import Replicas
from aegis_common.rpc.call import current_call


class Repository:
    """What the current call asks of the models of its tenant.

    Args:
        models: The models of this replica.
        replicas: The other ones.
    """

    def __init__(self, models: Models, replicas: Replicas) -> None:
        self._models = models
        self._replicas = replicas

    async def load(self, model: str) -> None:
        """Load a model everywhere.

        Raises:
            NotEverywhere: It is loaded here, and not yet at another replica.
            AegisError: See `ModelLoading.load`.
        """
        tenant, by = _caller(model)
        done = await self._models.loading.load(model, tenant=tenant, by=by)
        await insist(self._replicas, done.change, f"model {model!r} is loaded")

    async def unload(self, model: str) -> None:
        """Unload a model everywhere.

        Raises:
            NotEverywhere: It is unloaded here, and not yet at another replica.
            AegisError: See `ModelLoading.unload`.
        """
        tenant, by = _caller(model)
        done = await self._models.loading.unload(model, tenant=tenant, by=by)
        await insist(self._replicas, done.change, f"model {model!r} is unloaded")


def _caller(model: str) -> tuple[str, str]:
    """Return the tenant and the name of whoever calls; the audit log gets the model's."""
    call = current_call()
    call.notes["model"] = model
    return call.principal.tenant, call.principal.subject or call.principal.spiffe_id
