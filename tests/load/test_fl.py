"""The bench of federated runs at a small scale, where MNIST lies beside the project."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from load.fl import gated, learning
from load.fl.stack import stack

MNIST = Path(__file__).parents[3] / "shared/data/mnist/mnist.npz"


@pytest.mark.long
@pytest.mark.training
@pytest.mark.timeout(300)
def test_the_2nn_learns_mnist_through_the_coordinator_and_outlives_it(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    if not MNIST.exists():
        pytest.skip("MNIST is not beside the project: shared/data/mnist/mnist.npz")
    said: list[str] = []

    async def bench() -> tuple[float, list[str]]:
        async with stack(tmp_path, gated.Year()) as running:  # type: ignore[abstract]  # nothing else is called
            name = await learning.Job(3).create(running, MNIST)
            last = [report async for report in running.rounds(name)][-1]
            return last.metrics["accuracy"], await learning.killed(running, MNIST, said.append, rounds=4)

    accuracy, missed = asyncio.run(bench())

    assert accuracy > 0.8
    assert missed == []
    assert "4 of 4 models the same" in said[0]
