"""`python -m aegis_local.quickstart`: reading an image and a carbon decision, without torch."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from aegis_local.demo.carbon import ask_carbon
from aegis_local.demo.report import Report
from aegis_local.demo.stage import run_show
from aegis_local.demo.tools import read_image
from aegis_local.runner import Stack

_GO_ON: Final = """
Go on from here:
    aegis up                       the same stack, to stay; it prints lines to copy
    python -m aegis_local.demo     the whole path, with federated training (needs torch)"""


async def show(stack: Stack, report: Report) -> None:
    """One image and one decision."""
    await read_image(stack, report)
    await ask_carbon(stack, report)


def main(
    keep: Annotated[bool, typer.Option("--keep", help="Keep the state directory and its logs.")] = False,
) -> None:
    """Read an image and ask for a carbon decision, on a stack of its own."""
    status = run_show(show, nodes=0, keep=keep)
    typer.echo(_GO_ON)
    raise typer.Exit(status)


if __name__ == "__main__":
    typer.run(main)
