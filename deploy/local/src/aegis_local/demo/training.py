"""A federated run over three sites, and the trained model at work in the agent."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from aegis_client import TrainingRun
from aegis_local.demo.doors import machines
from aegis_local.demo.report import Report
from aegis_local.runner import Stack

if TYPE_CHECKING:
    import numpy as np

    from aegis_client import Gate, Round

ROUNDS: Final = 3
MODEL: Final = "digits"
HELD_OUT: Final = 360
"""Examples that no site trains on: the first of the app's own permutation."""
MIN_ACCURACY: Final = 0.8
_BATCH: Final = 60
_MAX_WAIT_S: Final = 5.0  # a demo does not wait for the wind
_WITHIN_S: Final = 180.0


async def train(stack: Stack, report: Report) -> TrainingRun:
    """Train digits over the sites and follow the run to its end."""
    nodes = stack.layout.nodes
    report.heading(f"Federated training of {MODEL}: {nodes} sites, {ROUNDS} rounds, each gated by carbon")
    async with machines(stack) as sdk:
        run = await sdk.training.create(
            MODEL, rounds=ROUNDS, min_nodes=nodes, model=MODEL, max_wait=_MAX_WAIT_S
        )
        async for event in sdk.training.watch(run.name, timeout=_WITHIN_S):
            if event.round is not None:
                report.line(_round_text(event.round))
            if event.kind == "end" and event.run is not None:
                run = event.run
        run = await sdk.training.get(run.name)
    report.check("run", run.succeeded, expected="SUCCEEDED", found=f"{run.state} {run.state_message}".strip())
    reports = run.round_reports
    gated = sum(1 for one in reports if one.gate is not None)
    report.check(
        "rounds done and gated",
        len(reports) == gated == ROUNDS,
        expected=str(ROUNDS),
        found=f"{len(reports)} and {gated}",
    )
    full = [one.node_results for one in reports]
    report.check("sites in each round", full == [nodes] * ROUNDS, expected=str(nodes), found=full)
    report.check("published", bool(run.model_version), expected="a version", found=run.model_version)
    return run


async def classify(stack: Stack, report: Report, run: TrainingRun) -> None:
    """Classify digits that no site has seen, through the agent, in batches."""
    report.heading(f"The trained model classifies {HELD_OUT} held-out digits through the agent")
    images, labels = await asyncio.to_thread(_held_out)
    right, versions = 0, set()
    async with machines(stack) as sdk:
        for start in range(0, HELD_OUT, _BATCH):
            rows = images[start : start + _BATCH].tolist()
            result = await sdk.tools.run(MODEL, {"input": rows})
            versions.add(result.model_version)
            right += _correct(result.value["logits"], labels[start : start + _BATCH])
    accuracy = right / HELD_OUT
    report.check(
        "accuracy",
        accuracy >= MIN_ACCURACY,
        expected=f"at least {MIN_ACCURACY}",
        found=f"{accuracy:.4f} ({right} of {HELD_OUT})",
    )
    told = run.round_reports[-1].metrics.get("accuracy", 0.0) if run.round_reports else 0.0
    report.check(
        "the same as the run's last round told",
        abs(accuracy - told) < 1 / HELD_OUT,
        expected=f"{told:.4f}",
        found=f"{accuracy:.4f}",
    )
    report.check(
        "version that answered",
        versions == {run.model_version},
        expected=run.model_version,
        found=", ".join(sorted(versions)),
    )


def _round_text(report: Round) -> str:
    seconds = report.duration.total_seconds() if report.duration else 0.0
    accuracy = report.metrics.get("accuracy")
    shown = f"{accuracy:.4f}" if accuracy is not None else "not reported"
    return (
        f"round {report.number}: accuracy {shown}, {report.node_results} sites, {seconds:.1f} s; "
        f"{_gate_text(report.gate)}"
    )


def _gate_text(gate: Gate | None) -> str:
    if gate is None:
        return "no gate was reported"
    state = "clean" if gate.clean else "not clean, started anyway"
    if gate.intensity_g_per_kwh is None or gate.threshold_g_per_kwh is None:
        return f"gate {state}: {gate.reason}"
    return (
        f"gate {state}: {gate.intensity_g_per_kwh:g} of {gate.threshold_g_per_kwh:g} gCO2e/kWh "
        f"from {gate.source}"
    )


def _held_out() -> tuple[np.ndarray, np.ndarray]:
    """Return images (0 to 1) and labels, by the split rule that the model's manifest names."""
    import numpy as np
    from sklearn.datasets import load_digits

    digits = load_digits()
    chosen = np.random.default_rng(0).permutation(len(digits.data))[:HELD_OUT]
    return (digits.data[chosen] / 16.0).astype(np.float32), digits.target[chosen]


def _correct(logits: list[list[float]], labels: np.ndarray) -> int:
    return sum(
        max(range(len(row)), key=row.__getitem__) == int(label)
        for row, label in zip(logits, labels, strict=True)
    )
