"""`aegis audit verify`: proves what an audit log says; needs the files and the public keys, no service."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aegis_client.cli.lazy import PlainGroup
from aegis_client.cli.output import print_json, print_table
from aegis_client.cli.state import Format, Output
from aegis_client.errors import UsageError

if TYPE_CHECKING:
    from aegis_common.audit.verify import ChainReport

app = typer.Typer(cls=PlainGroup, help="Verify audit logs.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def group() -> None:
    """Verify audit logs."""


@app.command()
def verify(
    directory: Annotated[Path, typer.Argument(help="An audit log, or a folder of several.")],
    key: Annotated[
        list[Path],
        typer.Option(metavar="PATH", help="Public key, PEM, or a folder of *.pem; repeat it."),
    ],
    shipped: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="The second place of checkpoints. Default: DIRECTORY/shipped, if there is one.",
        ),
    ] = None,
    output: Output = Format.TEXT,
) -> None:
    """Check every chain of an audit log; exit 1 when one has a fault."""
    second = shipped or (directory / "shipped" if (directory / "shipped").is_dir() else None)
    reports = _verify(directory, key, second)
    if output is Format.JSON:
        print_json({"shipped": str(second) if second else "", "chains": reports})
    else:
        _print_text(reports, second)
    if not all(report.ok for report in reports):
        raise typer.Exit(1)


def _verify(directory: Path, keys: list[Path], shipped: Path | None) -> list[ChainReport]:
    from aegis_common.audit.format import chain_names
    from aegis_common.audit.verify import verify as verify_log
    from aegis_common.signing import TrustedKeys

    trusted = TrustedKeys.load(*keys).keys().values()
    try:
        places = _places(directory, shipped)
        present = {place: {name.file for name in chain_names(place)} for place in places}
        everywhere = set().union(*present.values())
        return [
            report
            for place in places
            for report in verify_log(place, trusted, shipped=shipped)
            # several logs may ship to one place: each chain is judged where its records are
            if report.file in present[place] or (report.file not in everywhere and place == places[0])
        ]
    except OSError as error:
        raise UsageError(f"{error.filename} cannot be read: {error.strerror}") from error


def _places(directory: Path, shipped: Path | None) -> list[Path]:
    from aegis_common.audit.format import chain_names

    folders = [directory, *sorted(entry for entry in directory.iterdir() if entry.is_dir())]
    second = shipped.resolve() if shipped else None
    places = [folder for folder in folders if folder.resolve() != second and chain_names(folder)]
    if not places:
        raise UsageError(f"there is no audit log in {directory}; look for *.jsonl")
    return places


def _print_text(reports: list[ChainReport], shipped: Path | None) -> None:
    rows = [
        (
            report.file,
            "ok" if report.ok else "FAULT",
            report.records,
            report.sealed_records,
            report.unsealed_records,
            "closed" if report.closed else ("torn" if report.torn else "open"),
        )
        for report in reports
    ]
    print_table(("chain", "result", "records", "proved", "not sealed yet", "end"), rows)
    for report in reports:
        if not report.ok:
            typer.echo(f"{report.file}: {report.fault}", err=True)
    if shipped is None:
        typer.echo(
            "note: without --shipped, whoever can write the folder can cut the end of a chain unseen",
            err=True,
        )
