"""`aegis fl plot`: a picture of a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from aegis_client.cli.arguments import RunArgument
from aegis_client.cli.output import print_json, short
from aegis_client.cli.state import Format, Output, state_of
from aegis_client.errors import UsageError

if TYPE_CHECKING:
    from aegis_client.round_forms import Round

_FIRST: Final = ("accuracy", "loss")
_MOST: Final = 2


def plot(
    ctx: typer.Context,
    name: RunArgument,
    target: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="PNG file. Default: RUN.png.", show_default=False),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A metric; twice for two. Default: accuracy and loss."),
    ] = None,
    output: Output = Format.TEXT,
) -> None:
    """Draw metrics, grid and emissions of a run's rounds into a PNG file."""
    try:
        from aegis_client.cli.run_chart import chart
    except ImportError as error:
        raise UsageError("aegis fl plot needs Pillow: pip install 'aegis-client[plot]'") from error
    with state_of(ctx).client() as client:
        run = client.training.get(name)
        rounds = list(client.training.rounds(name))
    file = target or Path(f"{short(run.name)}.png")
    picture = chart(run, rounds, chosen(rounds, metric or []))
    try:
        file.write_bytes(picture)
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {error.strerror}") from error
    if output is Format.JSON:
        print_json({"file": str(file)})
    else:
        typer.echo(file)


def chosen(rounds: Sequence[Round], asked: Sequence[str]) -> list[str]:
    """Return the metrics to draw.

    Raises:
        UsageError: There is no round, a metric that no round has, or there are more than two.
    """
    if not rounds:
        raise UsageError("the run has no rounds yet; there is nothing to draw")
    there = sorted(
        {name for report in rounds for name, value in report.metrics.items() if math.isfinite(value)}
    )
    if len(asked) > _MOST:
        raise UsageError(f"--metric is given {len(asked)} times; a picture has room for {_MOST}")
    for name in asked:
        if name not in there:
            raise UsageError(f"--metric {name!r} is none of the run's: {', '.join(there) or 'it has none'}")
    first: list[str] = [name for name in _FIRST if name in there]
    return list(asked) or (first or there)[:_MOST]
