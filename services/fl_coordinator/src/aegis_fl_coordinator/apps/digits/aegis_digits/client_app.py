"""What a site runs: some epochs on its own shard; only parameters and two numbers leave it."""

from __future__ import annotations

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from aegis_digits.task import Network, score, shard, train
from aegis_fl_coordinator.clientapp import private_updates

app = ClientApp(mods=[private_updates])


@app.train()
def train_round(message: Message, context: Context) -> Message:
    """Train the parameters that came with *message*."""
    torch.set_num_threads(1)
    partition = int(context.node_config["partition-id"])
    images, labels = shard(partition, int(context.node_config["num-partitions"]))
    network = Network()
    network.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
    config = message.content.config_records["config"]
    loss = train(
        network,
        images,
        labels,
        epochs=int(str(config["local-epochs"])),
        rate=float(str(config["learning-rate"])),
        # Another order in every round and at every node, but the same in every repeat.
        seed=int(str(config["seed"])) + 1000 * int(str(config["server-round"])) + partition,
    )
    metrics = MetricRecord({"num-examples": len(images), "train_loss": loss})
    content = RecordDict({"arrays": ArrayRecord(network.state_dict()), "metrics": metrics})
    return Message(content=content, reply_to=message)


@app.evaluate()
def evaluate_round(message: Message, context: Context) -> Message:
    """Measure the parameters that came with *message* on the node's own shard."""
    torch.set_num_threads(1)
    images, labels = shard(
        int(context.node_config["partition-id"]), int(context.node_config["num-partitions"])
    )
    network = Network()
    network.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
    metrics = MetricRecord({"num-examples": len(images), **score(network, images, labels)})
    return Message(content=RecordDict({"metrics": metrics}), reply_to=message)
