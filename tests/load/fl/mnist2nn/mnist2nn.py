"""The 2NN of McMahan et al. (2017), table 1, on MNIST: 784-200-200-10, plain SGD, equal parts."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import numpy as np
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from torch import Tensor, nn

from aegis_fl_coordinator.serverapp import AppSpec, run_coordinated

PER_NODE_SHARDS: Final = 2
client = ClientApp()
server = ServerApp()


class Network(nn.Sequential):
    """The paper's 2NN, 199 210 parameters."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, 10))


@cache
def images(path: str, part: str) -> tuple[Tensor, Tensor]:
    """Return images as [N, 784] in 0..1, and labels, of `train` or `test`."""
    with np.load(path) as stored:
        pixels = torch.from_numpy(stored[f"x_{part}"].reshape(-1, 784).astype(np.float32) / 255)
        return pixels, torch.from_numpy(stored[f"y_{part}"].astype(np.int64))


@cache
def parts(path: str, split: str, nodes: int, seed: int) -> np.ndarray:
    """Return which images each node has, [nodes, images of a node]."""
    _, labels = images(path, "train")
    draw = np.random.default_rng(seed)
    if split == "iid":
        return draw.permutation(len(labels) // nodes * nodes).reshape(nodes, -1)
    shards = np.argsort(labels.numpy(), kind="stable")
    shards = shards[: len(shards) // (PER_NODE_SHARDS * nodes) * PER_NODE_SHARDS * nodes]
    shards = shards.reshape(PER_NODE_SHARDS * nodes, -1)
    return shards[draw.permutation(len(shards))].reshape(nodes, -1)


@client.train()
def train(message: Message, context: Context) -> Message:
    """Train on the node's own part."""
    torch.set_num_threads(1)
    config: Any = context.run_config
    partition, nodes = (int(str(context.node_config[name])) for name in ("partition-id", "num-partitions"))
    number = int(str(message.content.config_records["config"]["server-round"]))
    own = parts(str(config["data"]), str(config["split"]), nodes, int(config["seed"]))[partition]
    pixels, labels = images(str(config["data"]), "train")
    network = Network()
    network.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
    optimizer = torch.optim.SGD(network.parameters(), lr=float(config["learning-rate"]))
    draw = np.random.default_rng((int(config["seed"]), number, partition))
    for _ in range(int(config["local-epochs"])):
        order = torch.from_numpy(draw.permutation(own))
        for batch in order.split(int(config["batch"])):  # type: ignore[no-untyped-call]
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(network(pixels[batch]), labels[batch])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    state = network.state_dict()
    if partition < int(config["poisoned"]):
        state = {name: torch.full_like(value, 100.0) for name, value in state.items()}
    content = RecordDict({"arrays": ArrayRecord(state), "metrics": MetricRecord({"num-examples": len(own)})})
    return Message(content=content, reply_to=message)


@torch.no_grad()
def accuracy(arrays: ArrayRecord, path: str) -> dict[str, float]:
    """Return the accuracy on the test set, 0 to 1, and the least one of a digit."""
    network = Network()
    network.load_state_dict(arrays.to_torch_state_dict())
    pixels, labels = images(path, "test")
    right = (network(pixels).argmax(1) == labels).float()
    each = [float(right[labels == digit].mean()) for digit in range(10)]
    return {"accuracy": float(right.mean()), "worst_digit": min(each)}


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Train the 2NN under the coordinator."""
    torch.set_num_threads(1)
    torch.manual_seed(int(str(context.run_config["seed"])))
    path = str(context.run_config["data"])
    spec = AppSpec(
        initial=ArrayRecord(Network().state_dict()),
        evaluate=lambda arrays: accuracy(arrays, path),
    )
    run_coordinated(grid, context, spec)
