"""What `aegis carbon run` writes into the ledger when its command has ended."""

from __future__ import annotations

import resource
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from aegis_client.carbon_ledger import Usage, UsageEntry
from aegis_client.cli.paced_process import PacedProcess
from aegis_client.cli.state import CliState
from aegis_client.errors import AegisApiError, AegisClientError, FailedPrecondition

_WITHIN_S: Final = 5.0
_KIB_PER_GIB: Final = 1 << 20


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@dataclass(frozen=True, slots=True)
class CommandLedger:
    """Records one command; where there is no ledger, it says nothing, and whatever fails ends no command.

    Attributes:
        state: How to reach the service.
        asked_at: When the command could have begun without waiting.
    """

    state: CliState
    asked_at: datetime
    cpu_s_before: float = field(default_factory=_cpu_s)
    """CPU time of children that had ended before."""

    def record(self, process: PacedProcess, zone: str, reservation: str) -> str:
        """Record *process*, which has ended, and return a line for people, or an empty text."""
        try:
            with self.state.client() as client:
                (found,) = client.carbon.record_usage(
                    [self._usage(process, zone, reservation)], timeout=_WITHIN_S
                )
        except FailedPrecondition:
            return ""
        except AegisClientError as error:
            return f"not in the ledger: {error}"
        return _told(found)

    def _usage(self, process: PacedProcess, zone: str, reservation: str) -> Usage:
        # Of all processes that have been waited for, by this one or by their own parents.
        peak_kib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        spans = process.spans or [(self.asked_at, datetime.now(UTC))]
        hours = process.worked.total_seconds() / 3600
        return Usage(
            id=f"command-{secrets.token_hex(16)}",
            kind="command",
            start_time=spans[0][0],
            end_time=spans[-1][1],
            spans=spans if len(spans) > 1 else (),
            zone=zone,
            reservation=reservation,
            cpu_seconds=_cpu_s() - self.cpu_s_before,
            memory_gib_hours=peak_kib / _KIB_PER_GIB * hours,
            run_now_start_time=min(self.asked_at, spans[0][0]),
        )


def _told(found: UsageEntry | AegisApiError) -> str:
    if isinstance(found, AegisApiError):
        return f"not in the ledger: {found}"
    stated = found.statements[-1]
    grams = "grams not known yet" if stated.grams is None else f"{stated.grams:.2g} gCO2e"
    saved = "" if stated.saved_grams is None else f", {stated.saved_grams:+.2g} g saved by waiting"
    how = " (estimated)" if found.estimated else ""
    return f"ledger: {found.kwh:.2g} kWh, {grams}{saved}{how}; {found.name}"
