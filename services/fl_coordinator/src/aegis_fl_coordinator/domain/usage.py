"""What a round used, as the carbon ledger is told: at the coordinator, and at the nodes of each zone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from aegis_fl_coordinator.domain.grids import Site
from aegis_fl_coordinator.domain.rounds import NodeOutcome, RoundReport
from aegis_fl_coordinator.domain.run import EngineKind, TrainingRun

COORDINATOR: Final = "coordinator"
_MOMENT: Final = timedelta(seconds=1)
"""Asking for the grid takes a moment, which is no wait."""


@dataclass(frozen=True, slots=True)
class RoundUsage:
    """One usage of a round.

    Attributes:
        usage_id: Unique: run, round, attempt and place; so a round counts once however often it is sent.
        zone: Resource name of the zone; empty for the carbon service's default.
        cpu_s: CPU seconds; 0 where *joules* tell.
        joules: Energy that a site's declared power comes to; None where CPU time tells.
        nodes: Nodes that it adds up; 0 for the coordinator.
        run_now: When the round could have started without waiting for clean power; None when it did not wait.
    """

    usage_id: str
    tenant: str
    run_id: str
    number: int
    start: datetime
    end: datetime
    zone: str
    cpu_s: float = 0.0
    joules: float | None = None
    nodes: int = 0
    run_now: datetime | None = None


def unmetered(run: TrainingRun, report: RoundReport, nodes: Mapping[str, Site]) -> int:
    """Return how many nodes of a round have no declared power."""
    if run.spec.engine is EngineKind.IN_PROCESS:
        return 0  # they run beside the coordinator, and are in its CPU time
    return sum(not _site(outcome, nodes).watts for outcome in report.outcomes)


def round_usages(
    run: TrainingRun, report: RoundReport, *, coordinator: Site, nodes: Mapping[str, Site]
) -> list[RoundUsage]:
    """Return what a reported round used, as far as it is known.

    Args:
        run: The run.
        report: The round, with its times.
        coordinator: Where the coordinator is.
        nodes: The tenant's nodes by resource name.
    """
    end = report.ended or run.create_time
    start = report.started or end - report.duration
    if report.duration:
        # It may have been reported long after, when a coordinator or a run was away meanwhile.
        end = min(end, start + report.duration)
    waited = report.gate.waited if report.gate else None
    run_now = start - waited if waited and waited > _MOMENT else None
    found: list[RoundUsage] = []

    def usage(place: str, zone: str) -> RoundUsage:
        usage_id = f"{run.run_id}:{report.number}:{report.attempt}:{place}"
        return RoundUsage(usage_id, run.tenant, run.run_id, report.number, start, end, zone, run_now=run_now)

    if report.cpu_s is not None:
        found.append(replace(usage(COORDINATOR, coordinator.zone), cpu_s=report.cpu_s))
    if run.spec.engine is EngineKind.DEPLOYMENT:
        by_zone: defaultdict[str, list[float]] = defaultdict(list)
        for outcome in report.outcomes:
            site = _site(outcome, nodes)
            if site.watts:
                # One that was late worked until the round was over, as far as is known.
                took = outcome.duration or report.duration
                by_zone[site.zone].append(site.watts * took.total_seconds())
        for zone, joules in by_zone.items():
            place = zone.removeprefix("zones/") or "default"
            at_nodes = usage(f"nodes-{place}", zone)
            found.append(replace(at_nodes, joules=sum(joules), nodes=len(joules)))
    return found


def _site(outcome: NodeOutcome, nodes: Mapping[str, Site]) -> Site:
    return nodes.get(outcome.node, Site())
