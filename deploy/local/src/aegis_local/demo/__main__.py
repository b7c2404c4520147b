"""`python -m aegis_local.demo`: the whole path once, on real input."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from aegis_local.demo.carbon import ask_carbon
from aegis_local.demo.evidence import find_trace, verify_audit
from aegis_local.demo.refusals import try_refused_calls
from aegis_local.demo.report import Report
from aegis_local.demo.stage import run_show
from aegis_local.demo.tools import read_image, run_batch
from aegis_local.demo.training import classify, train
from aegis_local.runner import Stack
from aegis_local.system import DEFAULT_NODES, default_nodes

_GO_ON: Final = """
Go on from here:
    aegis up                       the same stack, to stay; it prints lines to copy
    aegis tools list               what the agent can do
    aegis carbon check             whether work should start now
    aegis fl run digits            a training run of your own
    aegis doctor                   what is missing on this machine"""


async def show(stack: Stack, report: Report) -> None:
    """Tools, carbon, federated training, refusals, audit and trace."""
    await read_image(stack, report)
    await run_batch(stack, report)
    await ask_carbon(stack, report)
    run = await train(stack, report)
    if run.succeeded:
        await classify(stack, report, run)
    await try_refused_calls(stack, report)
    await verify_audit(stack, report)
    await find_trace(stack, report, run.trace_id)


def main(
    keep: Annotated[bool, typer.Option("--keep", help="Keep the state directory and its logs.")] = False,
) -> None:
    """Show the whole of AEGIS on this machine, on a stack of its own."""
    nodes, why = default_nodes()
    if nodes < DEFAULT_NODES:
        typer.echo(f"the demo trains a model: {why}. Without it: python -m aegis_local.quickstart", err=True)
        raise typer.Exit(2)
    status = run_show(show, nodes=nodes, keep=keep)
    typer.echo(_GO_ON)
    raise typer.Exit(status)


if __name__ == "__main__":
    typer.run(main)
