"""`aegis artifacts`: put, get, ls, rm, describe."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aegis_client.cli.lazy import PlainGroup
from aegis_client.cli.output import clock, print_fields, print_json, print_json_line, print_table, short
from aegis_client.cli.state import Format, Output, state_of
from aegis_client.cli.times import duration_s
from aegis_client.cli.transfer import progress_bar

if TYPE_CHECKING:
    from aegis_client.artifact_forms import Artifact

app = typer.Typer(
    cls=PlainGroup,
    help="Keep content that is too large to travel inside a call.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
_NAMES = "An artifact: artifacts/ and its SHA-256, or the SHA-256 alone."


@app.command()
def put(
    ctx: typer.Context,
    files: Annotated[list[str], typer.Argument(metavar="FILE|-...", help="What to store; - is stdin.")],
    media_type: Annotated[
        str, typer.Option(help="For example image/png. Default: the content decides, then the file's name.")
    ] = "",
    filename: Annotated[str, typer.Option(help="Name to keep with it. Default: the file's own.")] = "",
    retention: Annotated[
        str,
        typer.Option(metavar="DURATION", help="How long to keep it, for example 12h or 30d. Default: 7d."),
    ] = "",
    output: Output = Format.TEXT,
) -> None:
    """Store files and print their names; what is there already is not sent again."""
    with state_of(ctx).client() as client:
        for file in files:
            with progress_bar(file if file != "-" else "stdin", show=output is Format.TEXT) as progress:
                found = client.artifacts.put(
                    sys.stdin.buffer if file == "-" else Path(file),
                    media_type=media_type,
                    filename=filename,
                    retention=duration_s(retention, "--retention"),
                    progress=progress,
                )
            if output is Format.JSON:
                print_json_line(found)
            else:
                typer.echo(found.name)


@app.command()
def get(
    ctx: typer.Context,
    artifact: Annotated[str, typer.Argument(help=_NAMES)],
    to: Annotated[
        str, typer.Argument(metavar="[FILE|FOLDER|-]", help="Where to write it; - is stdout.")
    ] = ".",
    output: Output = Format.TEXT,
) -> None:
    """Fetch the content and check it; a fetch that was stopped goes on where it was."""
    with state_of(ctx).client() as client:
        if to == "-":
            sys.stdout.buffer.write(client.artifacts.get(artifact))
            return
        with progress_bar(short(artifact)[:12], show=output is Format.TEXT) as progress:
            place = client.artifacts.get(artifact, Path(to), progress=progress)
    if output is Format.JSON:
        print_json({"path": str(place)})
    else:
        typer.echo(str(place))


@app.command("ls")
def list_artifacts(
    ctx: typer.Context,
    media_type: Annotated[
        str, typer.Option(help="Only those of a media type, or of a kind such as image/*.")
    ] = "",
    output: Output = Format.TEXT,
) -> None:
    """List artifacts, newest first."""
    with state_of(ctx).client() as client:
        found = list(client.artifacts.list(media_type=media_type))
    if output is Format.JSON:
        print_json(found)
        return
    rows = [
        (item.sha256, item.size_bytes, item.media_type, clock(item.expire_time), item.filename)
        for item in found
    ]
    print_table(("sha256", "bytes", "media type", "expires", "file"), rows, empty="no artifacts")


@app.command()
def describe(
    ctx: typer.Context,
    artifact: Annotated[str, typer.Argument(help=_NAMES)],
    output: Output = Format.TEXT,
) -> None:
    """Show what is known about an artifact."""
    with state_of(ctx).client() as client:
        found = client.artifacts.describe(artifact)
    if output is Format.JSON:
        print_json(found)
    else:
        _print(found)


@app.command("rm")
def remove(
    ctx: typer.Context,
    artifacts: Annotated[list[str], typer.Argument(metavar="ARTIFACT...", help=_NAMES)],
    output: Output = Format.TEXT,
) -> None:
    """Delete artifacts before their time."""
    with state_of(ctx).client() as client:
        for artifact in artifacts:
            client.artifacts.delete(artifact)
    if output is Format.JSON:
        print_json({"deleted": artifacts})


def _print(found: Artifact) -> None:
    print_fields(
        {
            "name": found.name,
            "bytes": found.size_bytes,
            "media type": found.media_type,
            "file": found.filename,
            "stored": clock(found.create_time),
            "expires": clock(found.expire_time),
        }
    )
