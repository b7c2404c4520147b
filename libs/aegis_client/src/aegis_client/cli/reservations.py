"""`aegis carbon reservations`: work that waits for clean power."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from aegis_client.cli.lazy import PlainGroup
from aegis_client.cli.output import (
    clock,
    print_fields,
    print_json,
    print_json_line,
    print_table,
    seconds,
    short,
)
from aegis_client.cli.state import Format, Output, state_of

if TYPE_CHECKING:
    from aegis_client.reservation_forms import Reservation, ReservationEvent

app = typer.Typer(
    cls=PlainGroup,
    help="List, look at, cancel and follow work that waits for clean power.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
_Name = Annotated[str, typer.Argument(metavar="RESERVATION", help="Its name; see `list`.")]


@app.command("list")
def list_reservations(
    ctx: typer.Context,
    state: Annotated[
        list[str] | None,
        typer.Option(
            metavar="waiting|running|suspended|finished|cancelled", help="Only those; may be repeated."
        ),
    ] = None,
    output: Output = Format.TEXT,
) -> None:
    """List the tenant's reservations, newest first."""
    with state_of(ctx).client() as client:
        found = list(client.reservations.list(states=state or ()))
    if output is Format.JSON:
        print_json(found)
        return
    rows = [
        (
            short(item.name),
            item.state.lower(),
            ", ".join(map(short, item.zones)) or "-",
            "-" if item.duration is None else seconds(item.duration),
            clock(item.deadline),
            _next(item),
        )
        for item in found
    ]
    print_table(("reservation", "state", "zones", "runs", "deadline", "next"), rows, empty="no reservations")


@app.command()
def get(ctx: typer.Context, name: _Name, output: Output = Format.TEXT) -> None:
    """Show one reservation with its plan."""
    with state_of(ctx).client() as client:
        found = client.reservations.get(name)
    _show(found, output)


@app.command()
def cancel(ctx: typer.Context, name: _Name, output: Output = Format.TEXT) -> None:
    """Give a reservation back. Its holder ends; work that runs already is not stopped by the service."""
    with state_of(ctx).client() as client:
        found = client.reservations.cancel(name)
    if output is Format.JSON:
        print_json(found)
    else:
        typer.echo(f"{found.name} is {found.state.lower()}")


@app.command()
def watch(ctx: typer.Context, name: _Name, output: Output = Format.TEXT) -> None:
    """Follow its signals and plans until it has ended."""
    with state_of(ctx).client() as client:
        for event in client.reservations.watch(name):
            if output is Format.JSON:
                print_json_line(event)
            else:
                typer.echo(_line(event))


def _line(event: ReservationEvent) -> str:
    if event.signal is not None:
        signal = event.signal
        until = f", until {clock(signal.until_time)}" if signal.until_time else ""
        return f"{clock(signal.time)} {signal.kind} ({signal.token}): {signal.message}{until}"
    if event.reservation is None:
        return ""
    found = event.reservation
    return f"{found.state.lower()}: {found.state_message or 'as planned'}; {_next(found)}"


def _next(item: Reservation) -> str:
    """Return what is planned next, in words."""
    if item.end_time is not None:
        return f"ended {clock(item.end_time)}" + (" (assumed)" if item.end_assumed else "")
    if item.state == "RUNNING":
        until = item.signal.until_time if item.signal else None
        return f"pause at {clock(until)}" if until else "runs to its end"
    start = item.plan.spans[0].start_time if item.plan and item.plan.spans else None
    return f"runs at {clock(start)}" if start else f"runs by {clock(item.latest_start_time)}"


def _show(found: Reservation, output: Format) -> None:
    if output is Format.JSON:
        print_json(found)
        return
    plan = found.plan
    fields = {
        "reservation": found.name,
        "state": found.state.lower() + (f": {found.state_message}" if found.state_message else ""),
        "zones": ", ".join(map(short, found.zones)),
        "pool": found.pool,
        "runs": seconds(found.duration),
        "deadline": clock(found.deadline),
        "latest start": clock(found.latest_start_time),
        "next": _next(found),
    }
    if plan is not None:
        where = f"{plan.g_per_kwh:.0f} gCO2e/kWh in {short(plan.zone)}"
        fields["expected"] = f"{where}, {100 * plan.saving:.0f} % saved"
    print_fields(fields)
