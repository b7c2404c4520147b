"""The Lease by which controllers agree who leads."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from aegis_carbon.controller.adapters.client import KubeClient, NotFound
from aegis_carbon.controller.adapters.objects import Unreadable, lease_body, lease_of
from aegis_carbon.controller.domain.election import Lease
from aegis_carbon.controller.domain.ports import ApiUnavailable, Changed


class KubeLease:
    """`Leases` of an API server."""

    def __init__(self, client: KubeClient, *, namespace: str, name: str) -> None:
        self._client, self._namespace, self._name = client, namespace, name
        self._path = f"/apis/coordination.k8s.io/v1/namespaces/{quote(namespace, safe='')}/leases"

    async def read(self) -> Lease | None:
        try:
            return _read(await self._client.call("GET", self._one()))
        except NotFound:
            return None

    async def write(self, lease: Lease) -> Lease:
        body = lease_body(self._namespace, self._name, lease)
        try:
            if lease.version:
                return _read(await self._client.call("PUT", self._one(), body=body))
            return _read(await self._client.call("POST", self._path, body=body))
        except NotFound as error:
            raise Changed(f"the Lease or its namespace is gone: {error.message}") from error

    def _one(self) -> str:
        return f"{self._path}/{quote(self._name, safe='')}"


def _read(item: dict[str, Any]) -> Lease:
    try:
        return lease_of(item)
    except Unreadable as error:
        raise ApiUnavailable(f"the API server answered with something else: {error}") from error
