"""What the runs of the bench are, and what they have to reach."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from load.fl.stack import Stack

from aegis.fl.v1 import training_service_pb2 as pb

NODES: Final = 100
TARGET: Final = 0.97
PUBLISHED: Final = {"iid": 87, "shards": 664}
"""McMahan et al. (2017), table 1: 2NN, C = 0.1, B = 10, E = 1; rounds to 97 % test accuracy."""
_DP: Final = "DifferentialPrivacyServerSideFixedClipping"
_FEW: Final = 10
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Job:
    """A run of the 2NN on MNIST.

    Attributes:
        rounds: Most rounds.
        config: Of the app.
        aggregation: How updates become the next model.
        nodes: Virtual nodes.
        seed: Of the sampling, the first model, the split and the shuffles.
    """

    rounds: int
    config: dict[str, Any] = field(default_factory=dict)
    aggregation: pb.Aggregation = field(default_factory=lambda: pb.Aggregation(fraction=0.1))
    nodes: int = NODES
    seed: int = 0

    async def create(self, stack: Stack, data: Path) -> str:
        config = {"data": str(data), "seed": self.seed, **self.config}
        return await stack.create(
            config, rounds=self.rounds, virtual_nodes=self.nodes, aggregation=self.aggregation, seed=self.seed
        )


async def to_target(stack: Stack, job: Job, data: Path) -> tuple[int | None, list[pb.Round], float]:
    """Run to the target or the last round; return the round that reached it, all rounds, seconds a round."""
    name, done, start = await job.create(stack, data), [], time.monotonic()
    async for report in stack.rounds(name):
        done.append(report)
        if report.metrics["accuracy"] >= TARGET:
            await stack.cancel(name)
            return report.number, done, (time.monotonic() - start) / len(done)
    return None, done, (time.monotonic() - start) / len(done)


async def published(stack: Stack, data: Path, say: Say, split: str, seeds: range) -> list[str]:
    """Print the rounds to 97 % for each seed; return what missed the paper's."""
    missed: list[str] = []
    for seed in seeds:
        job = Job(PUBLISHED[split], {"split": split}, seed=seed)
        reached, done, pace = await to_target(stack, job, data)
        best = max(report.metrics["accuracy"] for report in done)
        found = str(reached) if reached else f"not in {len(done)}"
        say(f"| {split} | {seed} | {found} | {PUBLISHED[split]} | {best:.4f} | {pace:.2f} |")
        if reached is None:
            missed.append(f"{split}, seed {seed}: best {best:.4f} in {len(done)} rounds")
    return missed


async def killed(stack: Stack, data: Path, say: Say, rounds: int = 40) -> list[str]:
    """Run twice, once with the coordinator killed halfway; return how the curves differ."""
    curves: list[list[str]] = []
    for half in (0, rounds // 2):
        name = await Job(rounds).create(stack, data)
        if half:
            async for report in stack.rounds(name):
                if report.number >= half:
                    break
            await stack.kill()
            await stack.start()
        curves.append([f"{one.number}:{one.checkpoint_sha256}" async for one in stack.rounds(name)])
    same = sum(one == other for one, other in zip(*curves, strict=False))
    say(
        f"IID, {rounds} rounds, coordinator killed -9 after {rounds // 2}: {len(curves[1])} rounds, "
        f"{same} of {len(curves[0])} models the same, bit by bit"
    )
    return [] if curves[0] == curves[1] else ["the curve of the run that was killed is another one"]


async def poisoned(stack: Stack, data: Path, say: Say, rounds: int = 8) -> list[str]:
    """Print the accuracy when one of ten nodes sends a hundred everywhere; return what did not survive."""
    cases = {
        "FedAvg, nothing else": pb.Aggregation(strategy="FedAvg", max_update_ratio=0),
        "FedAvg, as it comes": pb.Aggregation(strategy="FedAvg"),
        "FedMedian, nothing else": pb.Aggregation(strategy="FedMedian", max_update_ratio=0),
        "Krum f=1, nothing else": _with(
            pb.Aggregation(strategy="Krum", max_update_ratio=0), num_malicious_nodes=1
        ),
    }
    missed: list[str] = []
    for name, aggregation in cases.items():
        found: list[float] = []
        for count in (0, 1):
            job = Job(rounds, {"poisoned": count}, aggregation, nodes=_FEW)
            found.append(await _last(stack, job, data))
        say(f"| {name} | {found[0]:.4f} | {found[1]:.4f} |")
        if found[1] < 0.8 and name != "FedAvg, nothing else":
            missed.append(f"{name}: {found[1]:.4f} with one poisoned node")
    return missed


async def private(stack: Stack, data: Path, say: Say, rounds: int = 30) -> list[str]:
    """Print accuracy against epsilon for three levels of noise, each node in each round."""
    for noise in (0.5, 1.0, 2.0):
        aggregation = _with(pb.Aggregation(strategy=_DP), noise_multiplier=noise, clipping_norm=2.0)
        name = await Job(rounds, {"learning-rate": 0.05}, aggregation).create(stack, data)
        last = [report async for report in stack.rounds(name)][-1]
        say(f"| {noise:g} | {last.epsilon:.1f} | {last.delta:g} | {last.metrics['accuracy']:.4f} |")
    return []


async def _last(stack: Stack, job: Job, data: Path) -> float:
    name = await job.create(stack, data)
    return [report async for report in stack.rounds(name)][-1].metrics["accuracy"]


def _with(aggregation: pb.Aggregation, **parameters: float) -> pb.Aggregation:
    aggregation.parameters.update(parameters)
    return aggregation
