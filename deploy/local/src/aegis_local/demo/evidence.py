"""What the run leaves: audit logs that can be proved, and its trace id in the logs of every service."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Final

from aegis_common.audit.format import chain_names
from aegis_common.audit.verify import ChainReport, verify
from aegis_common.signing import TrustedKeys
from aegis_local.demo.report import Report
from aegis_local.runner import Stack

AUDITED: Final = ("agent", "carbon", "fl-coordinator")
TRACED: Final = ("gateway", "fl-coordinator", "carbon", "agent")
_LOGS_WITHIN_S: Final = 15.0


async def verify_audit(stack: Stack, report: Report) -> None:
    """Check each service's audit log against the public keys and the shipped checkpoints."""
    report.heading("The audit logs, checked from their files and the public key alone")
    for service in AUDITED:
        chains = await asyncio.to_thread(_chains, stack, service)
        faults = "; ".join(chain.fault for chain in chains if not chain.ok)
        records = sum(chain.records for chain in chains)
        sealed = sum(chain.sealed_records for chain in chains)
        report.check(
            service,
            bool(chains) and not faults and records > 0,
            expected="an unbroken chain with records",
            found=faults or f"{records} records in an unbroken chain, {sealed} of them sealed",
        )


async def find_trace(stack: Stack, report: Report, trace_id: str) -> None:
    """Look for the training run's trace id in the logs of all services."""
    report.heading(f"Trace {trace_id or '(none)'} of the training run")
    for service in TRACED:
        lines = await _lines_with(stack.layout.state.logs / f"{service}.log", trace_id)
        report.check(f"log of {service}", lines > 0, expected="at least 1 line", found=f"{lines} lines")


def _chains(stack: Stack, service: str) -> list[ChainReport]:
    audit = stack.layout.state.audit
    keys = TrustedKeys.load(stack.layout.credentials.trusted_keys("audit")).keys().values()
    own = {name.file for name in chain_names(audit / service)}
    # All services ship to one place; each chain is judged where its records are.
    return [chain for chain in verify(audit / service, keys, shipped=audit / "shipped") if chain.file in own]


async def _lines_with(path: Path, text: str) -> int:
    """Count the lines, and wait a little for the first: logs are written behind the calls."""
    end = time.monotonic() + _LOGS_WITHIN_S
    while text:
        content = await asyncio.to_thread(path.read_text, "utf-8", "replace")
        count = sum(text in line for line in content.splitlines())
        if count or time.monotonic() > end:
            return count
        await asyncio.sleep(0.5)
    return 0
