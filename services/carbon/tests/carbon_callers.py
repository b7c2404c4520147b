"""A carbon service over real mutual TLS, and those who call it."""

from __future__ import annotations

from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from aegis.carbon.v1 import carbon_service_pb2_grpc as pb_grpc
from aegis_common.testing.pki import Mesh

START = datetime(2026, 3, 4, 10, tzinfo=UTC)


class Callers:
    """Makes stubs for the accounts of a mesh."""

    def __init__(self, mesh: Mesh, port: int, stack: AsyncExitStack) -> None:
        self._mesh, self._port, self._stack = mesh, port, stack

    async def stub(self, account: str) -> pb_grpc.CarbonServiceAsyncStub:
        channel = self._mesh.channel(self._port, "carbon", account=account)
        stub: pb_grpc.CarbonServiceAsyncStub = pb_grpc.CarbonServiceStub(
            await self._stack.enter_async_context(channel)
        )
        return stub


def details(error: grpc.aio.AioRpcError) -> tuple[error_details_pb2.ErrorInfo, error_details_pb2.RetryInfo]:
    status = rpc_status.from_call(error)  # type: ignore[arg-type]  # stub types sync calls only
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    assert status is not None
    for detail in status.details:
        detail.Unpack(info)
        detail.Unpack(retry)
    return info, retry


async def failure(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value
