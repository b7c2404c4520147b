"""`aegis fl run`: everything that a training run can be asked for."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from aegis_client.cli.arguments import json_or_text, pairs
from aegis_client.cli.run_follow import follow, print_run
from aegis_client.cli.state import Format, Output, state_of
from aegis_client.cli.times import duration_s

if TYPE_CHECKING:
    from aegis_client.training_forms import LocalNoise


class Evaluation(StrEnum):
    FEDERATED = "federated"
    CENTRAL = "central"
    NONE = "none"


class Engine(StrEnum):
    DEPLOYMENT = "deployment"
    IN_PROCESS = "in-process"


def run(
    ctx: typer.Context,
    training_app: Annotated[str, typer.Argument(metavar="APP", help="Training app, for example digits.")],
    rounds: Annotated[
        int | None, typer.Option(min=1, max=10_000, help="Rounds. Default: the coordinator's.")
    ] = None,
    model: Annotated[str, typer.Option(help="Publish the result as this model.", show_default=False)] = "",
    strategy: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="FedAvg, FedMedian, Krum, ..., or module:Class. Default: the app's own."
        ),
    ] = "",
    parameter: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A parameter of the strategy; repeat it.")
    ] = None,
    config: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="A value of the app's own configuration; repeat it."),
    ] = None,
    epsilon_budget: Annotated[
        float | None, typer.Option(help="Most epsilon that the run may spend. Default: any.")
    ] = None,
    delta: Annotated[
        float | None, typer.Option(help="The delta of each epsilon, above 0 to 0.1. Default: 1e-5.")
    ] = None,
    local_noise: Annotated[
        tuple[float, float] | None,
        typer.Option(
            metavar="NORM MULTIPLIER",
            help="Each node clips its update to this norm and adds noise of so many times twice the norm.",
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Makes what the run draws repeat. Default: runs differ.")
    ] = None,
    min_nodes: Annotated[
        int | None,
        typer.Option(min=1, max=10_000, help="Nodes that a round needs. Default: the coordinator's."),
    ] = None,
    fraction: Annotated[
        float | None,
        typer.Option(help="Part of the online nodes that a round trains on, above 0 to 1. Default: all."),
    ] = None,
    quorum: Annotated[
        int | None,
        typer.Option(min=1, max=10_000, help="Usable results that a round needs. Default: half of them."),
    ] = None,
    round_timeout: Annotated[
        str,
        typer.Option(
            metavar="DURATION", help="Leave out nodes that take longer, 1s to 12h. Default: the app's, 10m."
        ),
    ] = "",
    max_update_ratio: Annotated[
        float | None,
        typer.Option(help="Drop updates so many times as far off as the median; 0: none. Default: 10."),
    ] = None,
    max_weight_ratio: Annotated[
        float | None, typer.Option(help="Most weight of a node, in times the median. Default: 10.")
    ] = None,
    engine: Annotated[
        Engine, typer.Option(help="Nodes at the sites, or virtual ones beside the coordinator.")
    ] = Engine.DEPLOYMENT,
    virtual_nodes: Annotated[
        int | None,
        typer.Option(min=1, max=10_000, help="Nodes of a run in process. Default: as --min-nodes."),
    ] = None,
    evaluation: Annotated[
        Evaluation | None,
        typer.Option(
            help="Who measures each round: the nodes, the app's server part, nobody. Default: the app's."
        ),
    ] = None,
    node_zone: Annotated[
        list[str] | None,
        typer.Option(metavar="ZONE", help="Only nodes in this zone take part; repeat it for further ones."),
    ] = None,
    node_label: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Only nodes with this label take part; repeat it."),
    ] = None,
    retention: Annotated[
        str,
        typer.Option(
            metavar="DURATION",
            help="Keep the run so long after its end, 1m to 3650d. Default: the coordinator's, 90d.",
        ),
    ] = "",
    zone: Annotated[str, typer.Option(help="Grid zone that counts.", show_default=False)] = "",
    max_intensity: Annotated[
        float | None,
        typer.Option(metavar="G_PER_KWH", help="Threshold of the gate. Default: the zone's own."),
    ] = None,
    max_wait: Annotated[
        str, typer.Option(metavar="DURATION", help="Longest wait before a round, up to 7d. Default: 1h.")
    ] = "",
    percentile: Annotated[
        float | None,
        typer.Option(help="Start at or below this percentile of the last 7 days, instead of a threshold."),
    ] = None,
    forecast: Annotated[
        bool,
        typer.Option("--forecast", help="Wait only where the forecast saves enough, instead of a threshold."),
    ] = False,
    min_saving: Annotated[
        float | None, typer.Option(help="Least saving that is worth a wait, 0 to 1. Default: 0.05.")
    ] = None,
    round_duration: Annotated[
        str,
        typer.Option(metavar="DURATION", help="Time that a round takes, to forecast. Default: as before."),
    ] = "",
    max_total_wait: Annotated[
        str, typer.Option(metavar="DURATION", help="Longest wait of all rounds together. Default: no limit.")
    ] = "",
    request_id: Annotated[
        str, typer.Option(metavar="UUID", help="Idempotency key: the same one again gives the same run.")
    ] = "",
    detach: Annotated[bool, typer.Option("--detach", help="Do not follow the run.")] = False,
    output: Output = Format.TEXT,
) -> None:
    """Create a training run and follow it to its end."""
    with state_of(ctx).client() as client:
        made = client.training.create(
            training_app,
            rounds=rounds or 0,
            min_nodes=min_nodes or 0,
            model=model,
            strategy=strategy,
            parameters=_values(parameter, "--parameter"),
            fraction=fraction,
            quorum=quorum or 0,
            round_timeout=duration_s(round_timeout, "--round-timeout"),
            max_update_ratio=max_update_ratio,
            max_weight_ratio=max_weight_ratio,
            seed=seed,
            epsilon_budget=epsilon_budget,
            delta=delta,
            local_noise=_local_noise(local_noise),
            engine=engine,
            virtual_nodes=virtual_nodes or 0,
            evaluation=evaluation or "",
            retention=duration_s(retention, "--retention"),
            node_zones=node_zone or (),
            node_labels=dict(pairs(node_label, "--node-label")),
            zone=zone,
            max_intensity=max_intensity,
            max_wait=duration_s(max_wait, "--max-wait"),
            percentile=percentile,
            forecast=forecast,
            min_saving=min_saving,
            round_duration=duration_s(round_duration, "--round-duration"),
            max_total_wait=duration_s(max_total_wait, "--max-total-wait"),
            config=_values(config, "--config"),
            request_id=request_id,
        )
        if detach:
            print_run(made, output)
            return
        if output is Format.TEXT:
            typer.echo(f"{made.name}  trace {made.trace_id}")
        follow(client, made, output)


def _local_noise(asked: tuple[float, float] | None) -> LocalNoise | None:
    if asked is None:
        return None
    from aegis_client.training_forms import LocalNoise

    return LocalNoise(clipping_norm=asked[0], noise_multiplier=asked[1])


def _values(texts: list[str] | None, option: str) -> dict[str, object]:
    return {name: json_or_text(text) for name, text in pairs(texts, option)}
