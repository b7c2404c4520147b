"""`aegis models keys`: the keys with which you sign your models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aegis_client.cli.lazy import PlainGroup
from aegis_client.cli.output import clock, print_json, print_table
from aegis_client.cli.replica_view import print_replicas
from aegis_client.cli.state import Format, Output, state_of

app = typer.Typer(
    cls=PlainGroup,
    help="Enroll, list and revoke the keys with which models are signed.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command()
def enroll(
    ctx: typer.Context,
    key: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Private key, Ed25519 in PEM; made where there is none. Default: publisher-keys/PROFILE.key "
            "beside the profile file.",
        ),
    ] = None,
    description: Annotated[str, typer.Option(help="What the key is, for people.", show_default=False)] = "",
    output: Output = Format.TEXT,
) -> None:
    """Enroll your key: models that it signs are taken then. The private half stays on this machine."""
    from aegis_client.publisher_files import key_place

    with state_of(ctx).client() as client:
        place = key_place(client.profile, key)
        made = client.publisher_keys.enroll(place, description=description)
    if output is Format.JSON:
        print_json({"publisher_key": made, "file": str(place)})
        return
    typer.echo(f"{made.name} of {made.subject} is enrolled")
    typer.echo(f"the private key is in {place}; keep it to yourself")


@app.command("list")
def list_keys(ctx: typer.Context, output: Output = Format.TEXT) -> None:
    """List the keys of your tenant, revoked ones among them."""
    with state_of(ctx).client() as client:
        keys = list(client.publisher_keys.list())
    if output is Format.JSON:
        print_json(keys)
        return
    rows = [
        (key.key_id, key.state.lower(), key.subject, clock(key.create_time), key.description) for key in keys
    ]
    print_table(("key", "state", "of", "enrolled", "description"), rows, empty="no publisher keys")


@app.command()
def revoke(
    ctx: typer.Context,
    key: Annotated[str, typer.Argument(help="Id of the key, 16 hex digits.")],
    compromised: Annotated[
        bool,
        typer.Option(
            "--compromised",
            help="Somebody else may have the private key: nothing that it ever signed is served any longer.",
        ),
    ] = False,
    output: Output = Format.TEXT,
) -> None:
    """Revoke a key for good: nothing new that it signs is taken; what was published before is served."""
    with state_of(ctx).client() as client:
        found = client.publisher_keys.revoke(key, compromised=compromised)
    if output is Format.JSON:
        print_json(found)
    else:
        typer.echo(f"{found.name} is {found.state.lower()}")
        print_replicas(found.replicas)
