"""`aegis fl nodes`: the sites that train."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aegis_client.cli.arguments import pairs
from aegis_client.cli.lazy import PlainGroup
from aegis_client.cli.output import clock, print_json, print_table, short
from aegis_client.cli.state import Format, Output, state_of
from aegis_client.errors import UsageError

app = typer.Typer(cls=PlainGroup, help="List, admit and remove the sites that train.", rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def list_nodes(ctx: typer.Context, output: Output = Format.TEXT) -> None:
    """List the nodes; with a command, admit or remove one."""
    if ctx.invoked_subcommand:
        return
    with state_of(ctx).client() as client:
        nodes = list(client.nodes.list())
    if output is Format.JSON:
        print_json(nodes)
        return
    rows = [
        (
            short(node.name),
            node.state,
            short(node.zone) or "-",
            ",".join(map("=".join, sorted(node.labels.items()))) or "-",
            clock(node.last_active_time),
        )
        for node in nodes
    ]
    print_table(("node", "state", "zone", "labels", "last active"), rows, empty="no nodes")


@app.command()
def register(
    ctx: typer.Context,
    node: Annotated[str, typer.Argument(help="Id of the node, for example site-1.")],
    public_key: Annotated[Path, typer.Option(metavar="PEM", help="File of its public key.")],
    zone: Annotated[str, typer.Option(help="Grid zone of the site.", show_default=False)] = "",
    watts: Annotated[
        float, typer.Option(min=0, help="Power that it draws while it trains, its weight in the carbon gate.")
    ] = 0.0,
    label: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="What runs may choose it by; repeat it."),
    ] = None,
    output: Output = Format.TEXT,
) -> None:
    """Admit a node by its public key."""
    try:
        pem = public_key.read_text(encoding="ascii")
    except OSError as error:
        raise UsageError(f"--public-key {public_key} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"--public-key {public_key} is no PEM file") from error
    with state_of(ctx).client() as client:
        made = client.nodes.register(node, pem, zone=zone, watts=watts, labels=dict(pairs(label, "--label")))
    if output is Format.JSON:
        print_json(made)
    else:
        typer.echo(f"{made.name} is registered")


@app.command()
def remove(
    ctx: typer.Context,
    node: Annotated[str, typer.Argument(help="Id of the node; see `aegis fl nodes`.")],
    output: Output = Format.TEXT,
) -> None:
    """Remove a node; it cannot join a run any more."""
    with state_of(ctx).client() as client:
        client.nodes.remove(node)
    if output is Format.JSON:
        print_json({"removed": short(node)})
    else:
        typer.echo(f"{short(node)} is removed")
