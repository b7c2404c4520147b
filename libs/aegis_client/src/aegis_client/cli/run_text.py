"""A training run in words: one line for its state, one for each round."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aegis_client.cli.output import clock, seconds, short

if TYPE_CHECKING:
    from aegis_client.training_forms import (
        Aggregation,
        CarbonPolicy,
        Gate,
        Pause,
        Privacy,
        Round,
        TrainingRun,
    )


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
    return f"{short(found.zone) or 'default zone'}, {at}, waits up to {seconds(found.max_wait)} a round"
