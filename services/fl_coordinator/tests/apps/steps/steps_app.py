"""Numbers that grow: a Flower app without torch."""

from __future__ import annotations

import os
import sys
import time

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from aegis_fl_coordinator.serverapp import AppSpec, ExportedArrays, run_coordinated

client = ClientApp()
server = ServerApp()


@client.train()
def add(message: Message, context: Context) -> Message:
    """Add the node's number, noise from a global generator, and how often the node was asked."""
    time.sleep(float(str(context.run_config["pause"])))
    partition = int(str(context.node_config["partition-id"]))
    if partition == 1:
        misbehave(str(context.run_config["fault"]))
    known = context.state.config_records.get("calls")
    calls = 1 + (int(str(known["n"])) if known else 0)
    context.state["calls"] = ConfigRecord({"n": calls})
    weights = message.content.array_records["arrays"]["w"].numpy()
    weights = weights + np.float64(partition + calls + np.random.normal())
    metrics = MetricRecord({"num-examples": 10 + partition, "calls": calls})
    content = RecordDict({"arrays": ArrayRecord({"w": Array(weights)}), "metrics": metrics})
    return Message(content=content, reply_to=message)


def misbehave(fault: str) -> None:
    if fault == "raise":
        raise RuntimeError("disk full")
    if fault == "crash":
        os._exit(7)
    if fault == "hang":
        time.sleep(3600)
    if fault == "print":
        print("not a frame " * 1000)
        sys.stdout.flush()


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Let the numbers grow."""
    spec = AppSpec(
        initial=ArrayRecord({"w": Array(np.zeros(3))}),
        evaluate=lambda arrays: {"mean": float(arrays["w"].numpy().mean())},
        export=lambda arrays: ExportedArrays(arrays["w"].numpy().tobytes(), {"task": "adding"}),
        round_timeout=float(str(context.run_config["timeout"])),
    )
    run_coordinated(grid, context, spec)
