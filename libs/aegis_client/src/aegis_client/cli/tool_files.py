"""`aegis tools add`, `files` and `remove`: tools that come and go while agents run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aegis_client.cli.output import clock, print_json, print_table, short
from aegis_client.cli.replica_view import print_replicas
from aegis_client.cli.state import Format, Output, state_of

FileArgument = Annotated[
    Path, typer.Argument(exists=True, dir_okay=False, help="Python file with functions marked @tool.")
]


def add(
    ctx: typer.Context,
    file: FileArgument,
    name: Annotated[str, typer.Option(help="Name of the file there. Default: its own, without .py.")] = "",
    output: Output = Format.TEXT,
) -> None:
    """Serve the tools of a Python file on all agents.

    It takes the place of a file of that name.
    """
    with state_of(ctx).client() as client:
        found = client.tools.put_file(file, name=name)
    if output is Format.JSON:
        print_json(found)
        return
    typer.echo(f"{short(found.name)}: {', '.join(map(short, found.tools))}")
    print_replicas(found.replicas)


def files(ctx: typer.Context, output: Output = Format.TEXT) -> None:
    """List the files that were added, and their tools."""
    with state_of(ctx).client() as client:
        found = list(client.tools.files())
    if output is Format.JSON:
        print_json(found)
        return
    rows = [
        (
            short(item.name),
            ", ".join(map(short, item.tools)),
            item.sha256[:12],
            item.creator,
            clock(item.create_time),
        )
        for item in found
    ]
    print_table(("file", "tools", "sha256", "by", "added"), rows, empty="no tool files")


def remove(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="FILE", help="Its name; see `aegis tools files`.")],
    output: Output = Format.TEXT,
) -> None:
    """Remove a file that was added, and its tools; calls that run end."""
    with state_of(ctx).client() as client:
        replicas = client.tools.remove_file(name)
    if output is Format.JSON:
        print_json({"replicas": replicas})
        return
    typer.echo(f"{short(name)} is removed")
    print_replicas(replicas)
