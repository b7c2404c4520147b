"""`aegis carbon`: now, check, intensity, forecast, plan, run, reservations, resolve, zones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from aegis_client.cli.carbon_now import now
from aegis_client.cli.carbon_plans import forecast, plan
from aegis_client.cli.carbon_report import report
from aegis_client.cli.carbon_run import run
from aegis_client.cli.lazy import PlainGroup
from aegis_client.cli.output import clock, print_fields, print_json, print_table, seconds, short
from aegis_client.cli.places import Place, with_place
from aegis_client.cli.reservations import app as reservations
from aegis_client.cli.state import Format, Output, state_of
from aegis_client.cli.times import WHEN, duration_s, moment_of
from aegis_client.errors import UsageError

if TYPE_CHECKING:
    from aegis_client.carbon import Intensity

app = typer.Typer(
    cls=PlainGroup,
    help="Ask how clean the grid is, whether to start now, and when to run.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command()
@with_place
def check(
    ctx: typer.Context,
    place: Place,
    zone: Annotated[str, typer.Argument(help="Grid zone, for example GB.", show_default=False)] = "",
    max_intensity: Annotated[
        float | None, typer.Option(metavar="G_PER_KWH", help="Threshold. Default: the zone's own.")
    ] = None,
    percentile: Annotated[
        float | None,
        typer.Option(metavar="P", help="Start at or below this percentile of the last seven days, instead."),
    ] = None,
    duration: Annotated[
        str, typer.Option(metavar="DURATION", help="Decide by forecast, instead, for work that runs so long.")
    ] = "",
    within: Annotated[
        str,
        typer.Option(metavar=WHEN, help="With --duration: it has to end within this time, or by this time."),
    ] = "",
    min_saving: Annotated[
        float | None, typer.Option(metavar="SHARE", help="With --duration: wait only to save so much.")
    ] = None,
    on_missing: Annotated[
        str, typer.Option(metavar="run_now|wait", help="What to decide without any data.")
    ] = "run_now",
    show_curl: Annotated[
        bool, typer.Option("--show-curl", help="Print the same call for curl, instead of making it.")
    ] = False,
    output: Output = Format.TEXT,
) -> None:
    """Decide whether work should start now. Without ZONE: the deployment's default zone."""
    if not duration and (within or min_saving is not None):
        raise UsageError(
            "--within and --min-saving go with --duration; for example --duration 2h --within 8h"
        )
    state = state_of(ctx)
    asked: dict[str, Any] = {
        "max_intensity": max_intensity,
        "percentile": percentile,
        "duration": duration_s(duration, "--duration"),
        "deadline": moment_of(within, "--within"),
        "min_saving": min_saving,
        "on_missing": on_missing,
    }
    if show_curl:
        from aegis_client.carbon import check_operation
        from aegis_client.cli.curl import curl

        if place:
            raise UsageError("--show-curl takes a zone, not a place; aegis carbon resolve finds the zone")
        typer.echo(curl(check_operation(zone, **asked), state.load_profile()))
        return
    with state.client() as client:
        decision = client.carbon.check(place.zone(client, zone), **asked)
    if output is Format.JSON:
        print_json(decision)
        return
    fields: dict[str, object] = {
        "decision": decision.decision,
        "reason": decision.reason,
        "threshold": f"{decision.threshold_g_per_kwh:g} gCO2e/kWh" if decision.threshold_g_per_kwh else "",
    }
    if decision.intensity:
        fields |= _fields(decision.intensity)
    if decision.retry_after:
        fields["ask again in"] = seconds(decision.retry_after)
    if window := decision.next_window:
        span = f"{clock(window.start_time)} to {clock(window.end_time)}"
        fields["next window"] = f"{span}, {window.g_per_kwh:.0f} gCO2e/kWh expected"
    print_fields(fields)


@app.command()
def intensity(
    ctx: typer.Context,
    zone: Annotated[str, typer.Argument(help="Grid zone, for example GB.")],
    output: Output = Format.TEXT,
) -> None:
    """Show the current intensity of a zone, with its source and age."""
    with state_of(ctx).client() as client:
        found = client.carbon.intensity(zone)
    if output is Format.JSON:
        print_json(found)
    else:
        print_fields(_fields(found))


app.add_typer(reservations, name="reservations")
app.command()(now)
app.command()(forecast)
app.command()(plan)
app.command()(report)
app.command()(run)


@app.command()
@with_place
def resolve(ctx: typer.Context, place: Place, output: Output = Format.TEXT) -> None:
    """Show which zones a place lies in, and who says so."""
    with state_of(ctx).client() as client:
        found = place.resolved(client)
    if found is None:
        raise UsageError("name a place: --region, --country, --postcode, --location or --topology-label")
    if output is Format.JSON:
        print_json(found)
        return
    rows = [
        (
            short(zone.zone),
            zone.quality.lower() + (f" ({zone.near}, {zone.distance_km or 0:.0f} km)" if zone.near else ""),
            f"{zone.source} {zone.table_version}".rstrip(),
            zone.grid_zone,
            ", ".join(zone.providers),
        )
        for zone in found.zones
    ]
    typer.echo(found.place)
    print_table(("zone", "quality", "said by", "as", "providers"), rows)


@app.command()
def zones(ctx: typer.Context, output: Output = Format.TEXT) -> None:
    """List the zones that some provider covers."""
    with state_of(ctx).client() as client:
        found = list(client.carbon.zones())
    if output is Format.JSON:
        print_json(found)
        return
    rows = [
        (
            short(zone.name) + (" (default)" if zone.default else ""),
            zone.display_name,
            f"{zone.threshold_g_per_kwh:g}",
            ", ".join(zone.providers),
        )
        for zone in found
    ]
    print_table(("zone", "name", "threshold g/kWh", "providers"), rows, empty="no zones")


def _fields(found: Intensity) -> dict[str, object]:
    return {
        "zone": short(found.zone),
        "intensity": f"{found.g_per_kwh:g} gCO2e/kWh ({found.signal.lower()}, {found.quality.lower()})",
        "slot": f"{clock(found.start_time)} to {clock(found.end_time)}",
        "source": found.source,
        "age": seconds(found.age),
    }
