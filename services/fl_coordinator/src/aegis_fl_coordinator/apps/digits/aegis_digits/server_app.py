"""What the server runs: Federated Averaging, accuracy on held-out digits, export to ONNX."""

from __future__ import annotations

import torch
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp

from aegis_digits.export import describe, to_onnx
from aegis_digits.task import Network, held_out, score
from aegis_fl_coordinator.serverapp import AppSpec, ExportedArrays, run_coordinated

app = ServerApp()


def network_of(arrays: ArrayRecord) -> Network:
    network = Network()
    network.load_state_dict(arrays.to_torch_state_dict())
    return network


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train a digits network under the coordinator."""
    torch.set_num_threads(1)
    torch.manual_seed(int(context.run_config["seed"]))
    spec = AppSpec(
        initial=ArrayRecord(Network().state_dict()),
        evaluate=lambda arrays: score(network_of(arrays), *held_out()),
        export=lambda arrays: ExportedArrays(to_onnx(network_of(arrays)), describe()),
        train_config={key: context.run_config[key] for key in ("seed", "learning-rate", "local-epochs")},
    )
    run_coordinated(grid, context, spec)
