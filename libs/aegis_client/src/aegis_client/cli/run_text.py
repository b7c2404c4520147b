"""A training run in words: one line for its state, one for each round."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from aegis_client.cli.output import clock, seconds, short, size

if TYPE_CHECKING:
    from aegis_client.round_forms import Gate, Round
    from aegis_client.training_forms import Aggregation, CarbonPolicy, Pause, Privacy, TrainingRun


ROUND_COLUMNS: Final = ("round", "metrics", "carbon gate", "nodes", "sent / received", "time", "energy")
NODE_COLUMNS: Final = ("round", "node", "time", "sent / received", "result")


def state_line(run: TrainingRun) -> str:
    message = f": {run.state_message}" if run.state_message else ""
    return f"{short(run.name)}  {run.state}{message}"


def round_line(report: Round, rounds: int) -> str:
    cells = [
        f"round {report.number}/{rounds or '?'}",
        metrics_text(report),
        f"gate {gate_text(report.gate)}",
        nodes_text(report),
        seconds(report.duration),
    ]
    if report.epsilon is not None:
        cells.append(f"epsilon {report.epsilon:.3g}")
    return "  ".join(cells)


def round_row(report: Round) -> tuple[object, ...]:
    """Return a round's cells below `ROUND_COLUMNS`."""
    used = sum(one.state == "USED" for one in report.node_outcomes)
    nodes = f"{used} of {len(report.node_outcomes)}" if report.node_outcomes else report.node_results
    moved = f"{size(report.bytes_sent)} / {size(report.bytes_received)}"
    attempts = f" ({report.attempt} attempts)" if report.attempt > 1 else ""
    took = seconds(report.duration) + attempts
    energy = energy_text(report)
    return report.number, metrics_text(report), gate_text(report.gate), nodes, moved, took, energy


def energy_text(report: Round) -> str:
    """Return what a round used and emitted, `~` before what is estimated."""
    if report.energy is None:
        return "-"
    about = "~" if report.energy.estimated else ""
    grams = "? g" if report.energy.grams is None else f"{report.energy.grams:.3g} g"
    rest = f", without {report.unmetered_nodes} nodes" if report.unmetered_nodes else ""
    return f"{about}{report.energy.kwh * 1000:.3g} Wh, {grams}{rest}"


def node_rows(rounds: Iterable[Round]) -> Iterator[tuple[object, ...]]:
    """Return the cells below `NODE_COLUMNS` of each node in each round."""
    for report in rounds:
        for one in report.node_outcomes:
            moved = f"{size(one.bytes_sent)} / {size(one.bytes_received)}"
            result = one.state.lower() + (f": {one.message}" if one.message else "")
            yield report.number, short(one.node) or "-", seconds(one.duration), moved, result


def metrics_text(report: Round) -> str:
    """Return the accuracy first, then the other metrics."""
    ordered = sorted(report.metrics.items(), key=lambda item: (item[0] != "accuracy", item[0]))
    return ", ".join(f"{name} {value:.4g}" for name, value in ordered) or "no metrics"


def gate_text(gate: Gate | None) -> str:
    if gate is None:
        return "-"
    text = "clean" if gate.clean else gate.reason.lower().replace("_", " ")
    if gate.intensity_g_per_kwh is not None and gate.threshold_g_per_kwh is not None:
        text += f" ({gate.intensity_g_per_kwh:g} of {gate.threshold_g_per_kwh:g} gCO2e/kWh, {gate.source})"
    if gate.waited:
        text += f" after {seconds(gate.waited)}"
    return text


def nodes_text(report: Round) -> str:
    text = f"{report.node_results} nodes"
    failures = ", ".join(f"{short(item.node) or 'a node'}: {item.message}" for item in report.node_failures)
    return f"{text}, failed: {failures}" if failures else text


def aggregation_text(found: Aggregation) -> str:
    """Return the strategy, and what was asked for beside it."""
    given = ", ".join(f"{name}={value}" for name, value in found.parameters.items())
    parts = [(found.strategy or "the app's own") + (f" ({given})" if given else "")]
    if found.fraction is not None:
        parts.append(f"fraction {found.fraction:g}")
    if found.quorum:
        parts.append(f"quorum {found.quorum}")
    if found.round_timeout is not None:
        parts.append(f"at most {seconds(found.round_timeout)} a round")
    return ", ".join(parts)


def privacy_text(found: Privacy) -> str:
    """Return what was asked for, or an empty string when nothing was."""
    parts = []
    if found.epsilon_budget is not None:
        parts.append(f"epsilon at most {found.epsilon_budget:g} (delta {found.delta:g})")
    if found.local_noise is not None:
        noise = found.local_noise
        parts.append(f"nodes clip to {noise.clipping_norm:g} and add noise {noise.noise_multiplier:g}")
    return ", ".join(parts)


def pause_text(found: Pause) -> str:
    since = f"since {clock(found.start_time)}" if found.start_time else "as soon as the round is finished"
    return f"{since}, by {found.requester}"


def policy_text(found: CarbonPolicy) -> str:
    limit = found.max_intensity_g_per_kwh
    at = "the zone's threshold" if limit is None else f"at most {limit:g} gCO2e/kWh"
    if found.percentile is not None:
        at = f"percentile {found.percentile:g} of 7 days"
    elif found.forecast:
        at = "by forecast"
    total = "" if found.max_total_wait is None else f", {seconds(found.max_total_wait)} in all"
    zone = short(found.zone) or "zones of nodes and coordinator"
    return f"{zone}, {at}, waits up to {seconds(found.max_wait)} a round{total}"
