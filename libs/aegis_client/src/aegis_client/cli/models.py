"""`aegis models`: list, describe, versions, promote."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from aegis_client.cli.output import clock, print_fields, print_json, print_table, short
from aegis_client.cli.replica_view import print_replicas
from aegis_client.cli.state import Format, Output, state_of

app = typer.Typer(
    help="List models and their versions, and promote one.", no_args_is_help=True, rich_markup_mode=None
)


@app.command("list")
def list_models(ctx: typer.Context, output: Output = Format.TEXT) -> None:
    """List your models."""
    with state_of(ctx).client() as client:
        models = list(client.models.list())
    if output is Format.JSON:
        print_json(models)
        return
    rows = [
        (short(model.name), _aliases(model.aliases), short(model.tool) or "-", clock(model.update_time))
        for model in models
    ]
    print_table(("model", "aliases", "tool", "newest version"), rows, empty="no models")


@app.command()
def describe(ctx: typer.Context, model: str, output: Output = Format.TEXT) -> None:
    """Show a model, its aliases, and where its newest version came from."""
    with state_of(ctx).client() as client:
        found = client.models.get(model)
        newest = next(client.models.versions(model, page_size=1), None)
    if output is Format.JSON:
        print_json({"model": found, "newest_version": newest})
        return
    print_fields({"name": found.name, "aliases": _aliases(found.aliases), "tool": found.tool})
    if newest:
        print_fields(
            {
                "newest": newest.version,
                "format": f"{newest.format}, {newest.size_bytes} bytes",
                "sha256": newest.sha256,
                "signed by": newest.signer_key_id,
                "made": clock(newest.create_time),
            }
        )
        typer.echo(f"provenance\n{json.dumps(newest.provenance, indent=2, ensure_ascii=False)}")


@app.command()
def versions(ctx: typer.Context, model: str, output: Output = Format.TEXT) -> None:
    """List the versions of a model, newest first."""
    with state_of(ctx).client() as client:
        found = list(client.models.versions(model))
    if output is Format.JSON:
        print_json(found)
        return
    rows = [
        (item.version, clock(item.create_time), item.size_bytes, item.sha256[:12], ", ".join(item.aliases))
        for item in found
    ]
    print_table(("version", "made", "bytes", "sha256", "aliases"), rows, empty="no versions")


@app.command()
def promote(
    ctx: typer.Context,
    model: str,
    version: str,
    alias: Annotated[
        str, typer.Option(help="Alias to move. Default: production, which the model's tool serves.")
    ] = "production",
    output: Output = Format.TEXT,
) -> None:
    """Point an alias at a version; an older version rolls back."""
    with state_of(ctx).client() as client:
        found = client.models.set_alias(model, alias, version)
    if output is Format.JSON:
        print_json(found)
    else:
        typer.echo(f"{found.name}: {alias} is now {found.aliases.get(alias, '-')}")
        print_replicas(found.replicas)


def _aliases(aliases: dict[str, str]) -> str:
    return ", ".join(f"{alias} -> {version}" for alias, version in sorted(aliases.items())) or "-"
