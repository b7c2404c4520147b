"""Whose grid a round runs on: the zones of its nodes and of the coordinator, by the power that each draws."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from aegis_fl_coordinator.domain.gate import CarbonAnswer
from aegis_fl_coordinator.domain.rounds import ZoneShare

_HALF = 0.5


@dataclass(frozen=True, slots=True)
class Site:
    """Somewhere that work is done.

    Attributes:
        zone: Resource name of its zone; empty for the carbon service's default.
        watts: Power that it draws; 0 when nobody declared it.
    """

    zone: str = ""
    watts: float = 0.0


def shares(sites: Iterable[Site]) -> dict[str, float]:
    """Return each zone's part of the power, above 0 to 1; they add up to 1.

    A site that declares no power counts as the mean of those that do; where none does, all count alike.
    """
    known = list(sites)
    declared = [site.watts for site in known if site.watts]
    usual = sum(declared) / len(declared) if declared else 1.0
    power: defaultdict[str, float] = defaultdict(float)
    for site in known:
        power[site.zone] += site.watts or usual
    total = sum(power.values())
    return {zone: part / total for zone, part in power.items()}


def combined(answers: Mapping[str, CarbonAnswer | None], parts: Mapping[str, float]) -> CarbonAnswer | None:
    """Return one answer for all zones, or None when no zone was answered for.

    With a threshold or a percentile the mean intensity is held against the mean threshold. By forecast, those
    zones decide that have at least half of the power. Zones without an intensity do not count.

    Args:
        answers: By zone; None for one that the carbon service did not answer.
        parts: Each zone's part of the power.
    """
    zones = tuple(
        ZoneShare(zone, parts[zone], answer.intensity if answer else None)
        for zone, answer in sorted(answers.items(), key=lambda item: -parts[item[0]])
    )
    given = {zone: answer for zone, answer in answers.items() if answer is not None}
    if not given:
        return None
    with_value = {zone: answer for zone, answer in given.items() if answer.intensity is not None} or given
    if len(with_value) == 1:
        return replace(next(iter(with_value.values())), zones=zones)
    counted = [(parts[zone], answer) for zone, answer in with_value.items()]
    intensity, threshold = _mean(counted, "intensity"), _mean(counted, "threshold")
    if intensity is not None and threshold:
        run_now = clean = intensity <= threshold
    else:
        run_now = _part(counted, run_now=True) >= _HALF
        clean = run_now and any(answer.clean for _, answer in counted)
    agreeing = [answer for _, answer in counted if answer.run_now is run_now] or [counted[0][1]]
    windows = [answer.next_window for _, answer in counted if answer.next_window]
    waits = [answer.retry_after for _, answer in counted if answer.retry_after]
    return CarbonAnswer(
        run_now,
        clean,
        agreeing[0].reason,
        intensity,
        threshold,
        ", ".join(sorted({answer.source for _, answer in counted if answer.source})),
        timedelta() if run_now else min(waits, default=timedelta()),
        None if run_now else min(windows, default=None),
        zones,
    )


def _mean(counted: Sequence[tuple[float, CarbonAnswer]], name: str) -> float | None:
    known = [(part, float(value)) for part, answer in counted if (value := getattr(answer, name)) is not None]
    total = sum(part for part, _ in known)
    return sum(part * value for part, value in known) / total if known else None


def _part(counted: Sequence[tuple[float, CarbonAnswer]], *, run_now: bool) -> float:
    total = sum(part for part, _ in counted)
    return sum(part for part, answer in counted if answer.run_now is run_now) / total
