"""`aegis carbon report`: what work used, emitted and saved."""

from __future__ import annotations

import csv
import dataclasses
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from aegis_client.cli.output import print_json, print_table, short
from aegis_client.cli.state import state_of
from aegis_client.cli.times import WHEN, since_of

if TYPE_CHECKING:
    from aegis_client.carbon_ledger import ReportRow


class ReportFormat(StrEnum):
    TABLE = "table"
    JSON = "json"
    CSV = "csv"


def report(
    ctx: typer.Context,
    by: Annotated[
        str,
        typer.Option(
            metavar="NAMES",
            help="Groups, by commas: tenant, tool, model, run, zone, day, kind. Default: one for all.",
        ),
    ] = "",
    since: Annotated[str, typer.Option(metavar=WHEN, help="First day: 7d is seven days ago.")] = "30d",
    all_tenants: Annotated[bool, typer.Option("--all-tenants", help="Everyone's usage; for admins.")] = False,
    output: Annotated[
        ReportFormat, typer.Option("-o", "--output", help="How to print.")
    ] = ReportFormat.TABLE,
) -> None:
    """Show energy, grams, SCI and what waiting saved, from the ledger. Days are UTC."""
    names = list(dict.fromkeys(name.strip() for name in by.split(",") if name.strip()))
    with state_of(ctx).client() as client:
        rows = list(client.carbon.report(by=names, since=since_of(since, "--since"), all_tenants=all_tenants))
    if output is ReportFormat.JSON:
        print_json(rows)
    elif output is ReportFormat.CSV:
        _print_csv(rows)
    else:
        heads = ("work", "kWh", "gCO2e", "SCI g", "saved g", "worse", "")
        table = [(*(_text(row, name) for name in names), *_cells(row)) for row in rows]
        print_table((*names, *heads), table, empty="nothing was recorded in this time")


def _text(row: ReportRow, name: str) -> str:
    return short(str(getattr(row, name, ""))).lower() or "-"


def _cells(row: ReportRow) -> tuple[str, ...]:
    worse = f"{row.worse_entries} of {row.compared_entries}" if row.compared_entries else "-"
    notes = ["estimated"] if row.estimated else ["measured"]
    if row.unknown_kwh:
        notes.append(f"{row.unknown_kwh:.3g} kWh without intensity")
    return (
        f"{row.units:g} {row.unit}",
        f"{row.kwh:.3g} ({row.kwh_low:.3g} to {row.kwh_high:.3g})",
        "unknown"
        if row.grams is None
        else f"{row.grams:.3g} ({row.grams_low or 0:.3g} to {row.grams_high or 0:.3g})",
        "unknown" if row.sci_g_per_unit is None else f"{row.sci_g_per_unit:.3g}/{row.unit}",
        "-" if row.saved_grams is None else f"{row.saved_grams:+.3g}",
        worse,
        ", ".join(notes),
    )


def _print_csv(rows: list[ReportRow]) -> None:
    from aegis_client.carbon_ledger import ReportRow

    names = [field.name for field in dataclasses.fields(ReportRow)]
    writer = csv.DictWriter(sys.stdout, names)
    writer.writeheader()
    writer.writerows(dataclasses.asdict(row) for row in rows)
