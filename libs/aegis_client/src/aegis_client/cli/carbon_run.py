"""`aegis carbon run`: runs a command when power is clean, and in time."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from typing import Annotated, Final

import typer

from aegis_client.cli.places import Place, with_place
from aegis_client.cli.state import state_of
from aegis_client.cli.times import WHEN, duration_s, moment_of
from aegis_client.errors import UsageError

_CHUNKS: Final = 20
_CHOICES: Final = ("run_now", "run_at_latest_start")


@with_place
def run(
    ctx: typer.Context,
    place: Place,
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND [ARG]...", help="What to run.")],
    duration: Annotated[str, typer.Option(metavar="DURATION", help="How long it runs, about: 1h.")],
    within: Annotated[
        str,
        typer.Option(
            metavar=WHEN, help="It has ended within this time, or by this time: 8h or 'tomorrow 06:00'."
        ),
    ],
    zone: Annotated[str, typer.Option(help="Grid zone. Default: the deployment's.")] = "",
    interruptible: Annotated[
        bool, typer.Option("--interruptible", help="Suspend and continue it, with all its processes.")
    ] = False,
    min_chunk: Annotated[
        str,
        typer.Option(
            metavar="DURATION",
            help="With --interruptible: shortest time that it runs. Default: a twentieth of --duration.",
        ),
    ] = "",
    on_suspend: Annotated[
        str, typer.Option(metavar="SHELL", help="Suspends it instead of SIGSTOP; gets AEGIS_PID.")
    ] = "",
    on_resume: Annotated[
        str, typer.Option(metavar="SHELL", help="Continues it instead of SIGCONT; gets AEGIS_PID.")
    ] = "",
    on_missing: Annotated[
        str, typer.Option(metavar="|".join(_CHOICES), help="When it starts without a forecast.")
    ] = "run_now",
    pool: Annotated[
        str, typer.Option(metavar="NAME", help="Capacity pool of the deployment in which it runs.")
    ] = "",
) -> None:
    """Run a command while power is clean, so that it has ended in time.

    For example: aegis carbon run --duration 1h --within 8h -- python train.py

    It holds a reservation, or follows plans where the deployment has none. It starts at the latest start
    whatever happens: also when nobody answers. Output, input and exit code are the command's; signals are
    passed on. Messages go to stderr. What it used goes into the ledger.
    """
    from aegis_client.carbon_plans import PlannedJob
    from aegis_client.cli.paced_ledger import CommandLedger
    from aegis_client.cli.paced_process import PacedProcess
    from aegis_client.cli.paced_session import PacedSession, PlanSource
    from aegis_client.cli.reserved import Reserved
    from aegis_client.pacing import Pacer

    if on_missing not in _CHOICES:
        raise UsageError(f"--on-missing {on_missing!r} is not one of {', '.join(_CHOICES)}")
    length = _positive(duration_s(duration, "--duration"), duration)
    chunk = duration_s(min_chunk, "--min-chunk")
    if chunk is not None and not interruptible:
        raise UsageError("--min-chunk goes with --interruptible")
    job = PlannedJob(
        duration=length,
        zones=[zone] if zone else (),
        deadline=moment_of(within, "--within"),
        interruptible=interruptible,
        min_chunk=(length / _CHUNKS if chunk is None else chunk) if interruptible else None,
    )
    if zone and place:
        raise UsageError(f"--zone {zone} and a place say the same; give one of them")
    if shutil.which(command[0]) is None:
        raise UsageError(f"command {command[0]!r} is not found, or cannot be executed")
    source = PlanSource(state_of(ctx), place)
    pacer = Pacer(job, source.plan, at_latest=on_missing == "run_at_latest_start")
    if pacer.latest_start() < datetime.now(UTC):
        typer.echo("aegis: it cannot end in time: starting it at once", err=True)
    process = PacedProcess(command, on_suspend=on_suspend, on_resume=on_resume)
    ledger = CommandLedger(state_of(ctx), datetime.now(UTC))
    reserved = Reserved(state_of(ctx), job, place, pool=pool, on_missing=on_missing)
    if not reserved.begin():
        without = f", so that the capacity of pool {pool!r} is not kept" if pool else ""
        typer.echo(f"aegis: without a reservation ({reserved.fault}){without}", err=True)
        raise typer.Exit(PacedSession(pacer, process, source, ledger).run())
    try:
        if reserved.reservation is not None:
            source.follow(reserved.reservation)
        code = PacedSession(reserved, process, source, ledger).run()
    finally:
        reserved.close()
    raise typer.Exit(code)


def _positive(found: float | None, text: str) -> float:
    if not found:
        raise UsageError(f"--duration {text!r} is no time above 0; for example 1h")
    return found
