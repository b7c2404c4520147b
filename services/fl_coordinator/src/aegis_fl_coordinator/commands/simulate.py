"""`aegis fl simulate`: a training app over virtual nodes on this machine, without any service."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from aegis_fl_coordinator.domain.run import ConfigValue

app = typer.Typer(help="Run a training app over virtual nodes on this machine.", add_completion=False)


class Evaluation(StrEnum):
    """Who measures after each round."""

    APP = "app"
    FEDERATED = "federated"
    CENTRAL = "central"
    NONE = "none"


class Output(StrEnum):
    """Forms of the answer."""

    TEXT = "text"
    JSON = "json"


@app.command()
def simulate(
    source: Annotated[
        str, typer.Argument(metavar="APP", help="Folder of a Flower app, or the name of a bundled one.")
    ],
    nodes: Annotated[int, typer.Option(min=1, max=10_000, help="Virtual nodes.")] = 3,
    rounds: Annotated[int, typer.Option(min=1, max=10_000, help="Rounds.")] = 3,
    strategy: Annotated[
        str, typer.Option(help="Strategy, for example FedMedian, or module:Class. Default: the app's own.")
    ] = "",
    parameter: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A parameter of the strategy; repeat it.")
    ] = None,
    fraction: Annotated[
        float | None, typer.Option(help="Part of the nodes that a round trains on, above 0 to 1.")
    ] = None,
    local_noise: Annotated[
        tuple[float, float] | None,
        typer.Option(
            metavar="NORM MULTIPLIER",
            help="Each node clips its update to this norm and adds noise of so many times twice the norm.",
        ),
    ] = None,
    evaluation: Annotated[
        Evaluation, typer.Option(help="Who measures after each round; app: as the app has it.")
    ] = Evaluation.APP,
    seed: Annotated[int, typer.Option(help="The same seed gives the same model.")] = 0,
    workers: Annotated[int, typer.Option(min=0, help="Client processes. 0: one for each core.")] = 0,
    config: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="A value of the app's own configuration; repeat it."),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(help="Keep checkpoints, logs and the model here; what was cut off goes on from there."),
    ] = None,
    output: Annotated[
        Output, typer.Option("-o", "--output", help="json is one line for each round.")
    ] = Output.TEXT,
) -> None:
    """Train and print each round. The app runs as you, on this machine."""
    from aegis_fl_coordinator.domain import evaluation as domain
    from aegis_fl_coordinator.domain.privacy import LocalNoise, Privacy
    from aegis_fl_coordinator.domain.strategies import Aggregation
    from aegis_fl_coordinator.simulation import Simulation, simulated

    if fraction is not None and not 0 < fraction <= 1:
        raise typer.BadParameter(f"{fraction} is out of range: above 0, at most 1", param_hint="--fraction")
    if local_noise is not None and not min(local_noise) > 0:
        raise typer.BadParameter("both numbers are above 0", param_hint="--local-noise")
    wanted = Simulation(
        app=source,
        nodes=nodes,
        rounds=rounds,
        aggregation=Aggregation(strategy, _pairs(parameter, "--parameter"), fraction),
        config=_pairs(config, "--config"),
        seed=seed,
        workers=workers,
        privacy=Privacy(local=LocalNoise(*local_noise) if local_noise else None),
        evaluation=domain.Evaluation(evaluation),
    )
    with simulated(wanted, folder) as run:
        for report in run.rounds():
            typer.echo(json.dumps(report) if output is Output.JSON else _line(report, rounds))
        if run.model is not None and folder is not None and output is Output.TEXT:
            typer.echo(f"model: {run.model}")


def _line(report: dict[str, Any], rounds: int) -> str:
    metrics = "  ".join(f"{name} {value:.4g}" for name, value in sorted(report.get("metrics", {}).items()))
    line = f"round {report['number']}/{rounds}  {metrics}  nodes {report.get('node_results', 0)}"
    if "epsilon" in report:
        line += f"  epsilon {report['epsilon']:.3g}"
    for failed in report.get("node_failures", ()):
        line += f"\n  {failed.get('node', 'a node')}: {failed['message']}"
    return line


def _pairs(pairs: list[str] | None, option: str) -> dict[str, ConfigValue]:
    found: dict[str, ConfigValue] = {}
    for pair in pairs or ():
        name, sign, text = pair.partition("=")
        if not (name and sign):
            raise typer.BadParameter(f"{pair!r} is not NAME=VALUE", param_hint=option)
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        found[name] = value if isinstance(value, bool | int | float | str) else text
    return found
