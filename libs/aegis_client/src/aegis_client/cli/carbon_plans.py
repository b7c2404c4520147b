"""`aegis carbon forecast` and `plan`: what is expected of a zone, drawn in the terminal."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Final

import typer

from aegis_client.cli.output import clock, print_fields, print_json, seconds, short
from aegis_client.cli.places import Place, with_place
from aegis_client.cli.sparkline import marks, sparkline
from aegis_client.cli.state import Format, Output, state_of
from aegis_client.cli.times import WHEN, duration_s, moment_of

if TYPE_CHECKING:
    from aegis_client.carbon_plans import Forecast, Plan

_LENGTH: Final = "DURATION"
_WIDEST: Final = 96
_MARGIN: Final = 2

Zone = Annotated[
    str, typer.Argument(help="Grid zone, for example GB. Default: the deployment's.", show_default=False)
]


@with_place
def forecast(
    ctx: typer.Context,
    place: Place,
    zone: Zone = "",
    horizon: Annotated[
        str, typer.Option(metavar=_LENGTH, help="How far to look ahead, at most 7d. Default: 48h.")
    ] = "",
    output: Output = Format.TEXT,
) -> None:
    """Show what is expected of a zone, where it comes from, and how sure it is."""
    with state_of(ctx).client() as client:
        found = client.carbon.forecast(place.zone(client, zone), horizon=duration_s(horizon, "--horizon"))
    if output is Format.JSON:
        print_json(found)
        return
    typer.echo(_drawn(found))
    values = [slot.g_per_kwh for slot in found.slots]
    cleanest = min(found.slots, key=lambda slot: slot.g_per_kwh)
    print_fields(
        {
            "zone": short(found.zone),
            "now": _grams(found.slots[0].g_per_kwh),
            "lowest": f"{_grams(cleanest.g_per_kwh)} at {clock(cleanest.start_time)}",
            "highest": _grams(max(values)),
            "80 % band": _band(found),
            "sources": ", ".join(_sources(found)),
        }
    )


@with_place
def plan(
    ctx: typer.Context,
    place: Place,
    duration: Annotated[str, typer.Option(metavar=_LENGTH, help="Time that the job runs, for example 2h.")],
    within: Annotated[
        str,
        typer.Option(
            metavar=_LENGTH, help="It ends within this time. Default: its start waits for up to 24h."
        ),
    ] = "",
    deadline: Annotated[
        str,
        typer.Option(
            metavar=WHEN, help="It has ended by then, for example 'tomorrow 06:00'; instead of --within."
        ),
    ] = "",
    zone: Annotated[
        list[str] | None,
        typer.Option(help="Zone in which it may run; repeat it, its home first. Default: the deployment's."),
    ] = None,
    interruptible: Annotated[
        bool, typer.Option("--interruptible", help="It may be suspended and resumed.")
    ] = False,
    min_chunk: Annotated[
        str,
        typer.Option(
            metavar=_LENGTH, help="With --interruptible: shortest time between a start and the next stop."
        ),
    ] = "",
    max_interruptions: Annotated[
        int | None, typer.Option(min=0, max=100, help="With --interruptible: most suspensions.")
    ] = None,
    resume_overhead: Annotated[
        str,
        typer.Option(
            metavar=_LENGTH, help="With --interruptible: time that each resume costs before work goes on."
        ),
    ] = "",
    output: Output = Format.TEXT,
) -> None:
    """Find the cleanest time, and zone, for a job that has to end in time. Nothing is reserved."""
    from aegis_client.carbon_plans import PlannedJob
    from aegis_client.errors import UsageError

    if within and deadline:
        raise UsageError("--within and --deadline say the same; give one of them")
    if not interruptible and (min_chunk or max_interruptions is not None or resume_overhead):
        raise UsageError("--min-chunk, --max-interruptions and --resume-overhead go with --interruptible")
    job = PlannedJob(
        duration=duration_s(duration, "--duration") or 0.0,
        zones=zone or (),
        deadline=moment_of(within or deadline, "--within" if within else "--deadline"),
        interruptible=interruptible,
        min_chunk=duration_s(min_chunk, "--min-chunk"),
        max_interruptions=max_interruptions,
        resume_overhead=duration_s(resume_overhead, "--resume-overhead"),
    )
    with state_of(ctx).client() as client:
        if place:
            job = replace(job, zones=[place.zone(client, ", ".join(job.zones))])
        found = client.carbon.plan(job)
        expected = client.carbon.forecast(found.zone) if output is Format.TEXT else None
    if expected is None:
        print_json(found)
        return
    stretches = [(span.start_time, span.end_time) for span in found.spans]
    typer.echo(_drawn(expected, [(a, b) for a, b in stretches if a is not None and b is not None]))
    print_fields(_plan_fields(found))


def _plan_fields(found: Plan) -> dict[str, object]:
    runs = [f"{clock(span.start_time)} to {clock(span.end_time)}" for span in found.spans]
    band = ""
    if found.saving_low is not None and found.saving_high is not None:
        band = f" (80 % band {_percent(found.saving_low)} to {_percent(found.saving_high)})"
    return {
        "zone": short(found.zone),
        "runs": "; ".join(runs),
        "expected": _grams(found.g_per_kwh),
        "at once": _grams(found.now_g_per_kwh),
        "saving": f"{_percent(found.saving)}{band}",
        "latest start": clock(found.latest_start_time),
        "deadline": clock(found.deadline),
    }


def _drawn(found: Forecast, stretches: list[tuple[datetime, datetime]] | None = None) -> str:
    width = min(_WIDEST, shutil.get_terminal_size().columns - _MARGIN)
    lines = [sparkline([slot.g_per_kwh for slot in found.slots], width)]
    start, end = found.slots[0].start_time, found.slots[-1].end_time
    if stretches and start is not None and end is not None:
        lines.append(marks(start, end, stretches, width, len(found.slots)))
    return "\n".join(lines)


def _band(found: Forecast) -> str:
    widths = [slot.high_g_per_kwh - slot.low_g_per_kwh for slot in found.slots]
    return f"{_grams(sum(widths) / len(widths))} wide on average"


def _sources(found: Forecast) -> list[str]:
    spans: dict[str, float] = {}
    for part in found.parts:
        if part.start_time is not None and part.end_time is not None:
            name = f"{part.source} ({part.quality.lower()})"
            spans[name] = spans.get(name, 0.0) + (part.end_time - part.start_time).total_seconds()
    return [f"{name} {seconds(timedelta(seconds=total))}" for name, total in spans.items()]


def _grams(value: float) -> str:
    return f"{value:.0f} gCO2e/kWh"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
