"""The network, its training, and scikit-learn's digits split into shards and a held-out part."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

INPUTS: Final = 64
HIDDEN: Final = 32
CLASSES: Final = 10
HELD_OUT: Final = 360
"""Examples that no node trains on: the first of the permutation by `numpy.random.default_rng(0)`."""
_BATCH: Final = 32
_BRIGHTEST: Final = 16.0


class Network(nn.Module):
    """64 grey values in 0..1 to the logits of 10 digits."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(INPUTS, HIDDEN)
        self.output = nn.Linear(HIDDEN, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.output(torch.relu(self.hidden(x)))
        return logits


@cache
def _digits() -> tuple[Tensor, Tensor]:
    """Return all images and labels in the order of the split."""
    # Importing scikit-learn takes longer than a round of training; its data file is all that is needed.
    spec = find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise RuntimeError("scikit-learn is not installed: pip install scikit-learn")
    path = Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"
    table = np.loadtxt(path, delimiter=",", dtype=np.float32)
    table = table[np.random.default_rng(0).permutation(len(table))]
    return torch.from_numpy(table[:, :-1] / _BRIGHTEST), torch.from_numpy(table[:, -1]).long()


def shard(partition: int, partitions: int) -> tuple[Tensor, Tensor]:
    """Return images and labels of one node: every *partitions*-th example, from *partition* on."""
    if not 0 <= partition < partitions:
        raise ValueError(f"partition-id is {partition}; it must be 0 to {partitions - 1}")
    images, labels = _digits()
    return images[HELD_OUT:][partition::partitions], labels[HELD_OUT:][partition::partitions]


def held_out() -> tuple[Tensor, Tensor]:
    """Return the images and labels that no node trains on."""
    images, labels = _digits()
    return images[:HELD_OUT], labels[:HELD_OUT]


def train(network: Network, images: Tensor, labels: Tensor, *, epochs: int, rate: float, seed: int) -> float:
    """Train in place by SGD and return the mean loss of the last epoch."""
    shuffle = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(network.parameters(), lr=rate, momentum=0.9)
    losses: list[float] = []
    for _ in range(epochs):
        losses = []
        for batch in torch.randperm(len(images), generator=shuffle).split(_BATCH):  # type: ignore[no-untyped-call]
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(network(images[batch]), labels[batch])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(float(loss.detach()))
    return sum(losses) / len(losses)


@torch.no_grad()
def score(network: Network, images: Tensor, labels: Tensor) -> dict[str, float]:
    """Return loss and accuracy (0 to 1) on *images*."""
    logits = network(images)
    return {
        "accuracy": float((logits.argmax(1) == labels).float().mean()),
        "loss": float(nn.functional.cross_entropy(logits, labels)),
    }
