"""The way to the carbon service's ledger, for every service that records what its work used."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

import grpc
import grpc.aio

from aegis.carbon.v1 import ledger_service_pb2 as pb
from aegis.carbon.v1 import ledger_service_pb2_grpc as pb_grpc
from aegis_common.auth.principal import Principal
from aegis_common.rpc.errors import remote_error
from aegis_common.rpc.outgoing import acting_for

BATCH: Final = 500
"""Usages that are sent at once."""
_TIMEOUT_S: Final = 10.0
_LEAST: Final = timedelta(milliseconds=1)
_log: Final = logging.getLogger(__name__)


class LedgerAway(Exception):
    """The ledger took nothing; what was sent is to be sent again."""


class GrpcLedger:
    """Records what work used, over one channel.

    Args:
        channel: The way to the carbon service.
        subject: The service that records; whoever asked for the work need not be allowed to.
    """

    def __init__(self, channel: grpc.aio.Channel, *, subject: str) -> None:
        self._stub = pb_grpc.LedgerServiceStub(channel)
        self._subject = subject
        self._trouble = ""

    async def outcomes(self, tenant: str, usages: Sequence[pb.Usage]) -> list[pb.UsageOutcome]:
        """Record usages of a tenant and return what became of each.

        Raises:
            LedgerAway: None was recorded, as far as is known; sending them again does no harm.
        """
        principal = Principal("", self._subject, tenant, frozenset({"operator"}))
        request = pb.RecordUsageRequest(usages=usages)
        try:
            with acting_for(principal):
                answer = await self._stub.RecordUsage(request, timeout=_TIMEOUT_S)
        except grpc.RpcError as failed:
            error = remote_error(failed)
            if self._trouble != error.reason:
                self._trouble = error.reason
                _log.warning("the ledger takes no usage: %s (%s)", error.message, error.reason)
            raise LedgerAway(error.reason) from failed
        if self._trouble:
            self._trouble = ""
            _log.info("the ledger takes usage again")
        return list(answer.outcomes)

    async def record(self, tenant: str, usages: Sequence[pb.Usage]) -> list[str]:
        """Record usages; return for each what is wrong with it, or an empty text when it is recorded.

        Raises:
            LedgerAway: As `outcomes` does.
        """
        return [outcome.error.message for outcome in await self.outcomes(tenant, usages)]


def after(start: datetime, end: datetime) -> datetime:
    """Return *end*, or a moment after *start* where it is not: a usage takes time."""
    return max(end, start + _LEAST)
