"""`aegis models`: push, list, describe, versions, pull, promote, rollback, verify, rm, keys."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from aegis_client.cli import model_keys
from aegis_client.cli.arguments import ModelArgument
from aegis_client.cli.lazy import PlainGroup
from aegis_client.cli.model_view import aliases_text, print_checks, print_model, print_version
from aegis_client.cli.output import clock, print_json, print_table, short
from aegis_client.cli.replica_view import print_replicas
from aegis_client.cli.state import Format, Output, state_of
from aegis_client.cli.transfer import progress_bar
from aegis_client.errors import UsageError

if TYPE_CHECKING:
    from aegis_client.client import Client

app = typer.Typer(
    cls=PlainGroup,
    help="Bring models of your own; list, check, promote and fetch any.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(model_keys.app, name="keys")

_PRODUCTION: Final = "production"
_SHORT: Final = "`prod` is short for it"
AliasOption = Annotated[
    str, typer.Option(metavar="ALIAS", help=f"The alias; the model's tool serves production. {_SHORT}.")
]
VersionArgument = Annotated[
    str,
    typer.Argument(
        metavar="[VERSION|ALIAS]", help="Id of the version, or an alias; `prod` is short for production."
    ),
]


@app.command()
def push(
    ctx: typer.Context,
    source: Annotated[
        Path,
        typer.Argument(
            metavar="DIR|FILE",
            help="A folder with model.yaml, model.onnx and what they need, or an .onnx file.",
        ),
    ],
    name: Annotated[
        str, typer.Option(help="Name of the model. Default: what model.yaml says.", show_default=False)
    ] = "",
    version: Annotated[
        str,
        typer.Option(
            help="Id of the version. Default: what model.yaml says, then the beginning of the SHA-256.",
            show_default=False,
        ),
    ] = "",
    alias: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ALIAS",
            help="Point this alias at the version once it is loaded; repeat it. The model's tool serves "
            f"the alias production; {_SHORT}.",
        ),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Private key, PEM. Default: the profile's; see `keys enroll`."),
    ] = None,
    output: Output = Format.TEXT,
) -> None:
    """Check a model, sign it with your publisher key, upload and publish it.

    DIR has model.yaml, model.onnx and what they need; FILE is an .onnx file. The key has to be enrolled once:
    aegis models keys enroll.
    """
    with (
        state_of(ctx).client() as client,
        progress_bar(source.name or str(source), show=output is Format.TEXT) as progress,
    ):
        made = client.models.push(
            source,
            name,
            version=version,
            aliases=[_alias(text) for text in alias or ()],
            key=key,
            progress=progress,
        )
    if output is Format.JSON:
        print_json(made)
        return
    typer.echo(made.name)
    if made.aliases:
        typer.echo(f"aliases  {', '.join(made.aliases)}")
    print_replicas(made.replicas)


@app.command("list")
def list_models(ctx: typer.Context, output: Output = Format.TEXT) -> None:
    """List your models."""
    with state_of(ctx).client() as client:
        models = list(client.models.list())
    if output is Format.JSON:
        print_json(models)
        return
    rows = [
        (short(model.name), aliases_text(model.aliases), short(model.tool) or "-", clock(model.update_time))
        for model in models
    ]
    print_table(("model", "aliases", "tool", "newest version"), rows, empty="no models")


@app.command()
def describe(
    ctx: typer.Context,
    model: ModelArgument,
    version: Annotated[
        str,
        typer.Argument(
            metavar="[VERSION|ALIAS]", help="Which version to show. Default: the newest.", show_default=False
        ),
    ] = "",
    output: Output = Format.TEXT,
) -> None:
    """Show a model, its aliases, and where one of its versions came from."""
    with state_of(ctx).client() as client:
        found = client.models.get(model)
        shown = (
            client.models.describe(model, _resolved(client, model, version))
            if version
            else next(client.models.versions(model, page_size=1), None)
        )
    if output is Format.JSON:
        print_json({"model": found, "version" if version else "newest_version": shown})
        return
    print_model(found)
    if shown:
        print_version("version" if version else "newest", shown)


@app.command()
def versions(ctx: typer.Context, model: ModelArgument, output: Output = Format.TEXT) -> None:
    """List the versions of a model, newest first."""
    with state_of(ctx).client() as client:
        found = list(client.models.versions(model))
    if output is Format.JSON:
        print_json(found)
        return
    rows = [
        (
            item.version,
            clock(item.create_time),
            item.size_bytes,
            item.sha256[:12],
            ", ".join((*item.aliases, "(distrusted)") if item.distrusted else item.aliases),
        )
        for item in found
    ]
    print_table(("version", "made", "bytes", "sha256", "aliases"), rows, empty="no versions")


@app.command()
def pull(
    ctx: typer.Context,
    model: ModelArgument,
    version: VersionArgument = _PRODUCTION,
    target: Annotated[
        Path,
        typer.Argument(
            metavar="[TARGET]",
            help="Folder of a bundle, file of a plain model; in a folder that is there, MODEL-VERSION.",
        ),
    ] = Path(),
    trusted: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PATH",
            help="Public key that may have signed it, PEM, or a folder of *.pem; repeat it. Default: the "
            "publisher keys of your tenant; what training made is signed by the coordinator's key.",
        ),
    ] = None,
    output: Output = Format.TEXT,
) -> None:
    """Fetch a version, once it is checked who signed it and that it is what was signed."""
    with (
        state_of(ctx).client() as client,
        progress_bar(short(model), show=output is Format.TEXT) as progress,
    ):
        place = client.models.pull(model, _alias(version), target, trusted=trusted, progress=progress)
    if output is Format.JSON:
        print_json({"path": str(place)})
    else:
        typer.echo(str(place))


@app.command()
def promote(
    ctx: typer.Context,
    model: ModelArgument,
    version: Annotated[str, typer.Argument(help="Id of the version; see `models versions`.")],
    alias: AliasOption = _PRODUCTION,
    output: Output = Format.TEXT,
) -> None:
    """Point an alias at a version, in one step for all callers."""
    with state_of(ctx).client() as client:
        found = client.models.promote(model, version, _alias(alias))
    if output is Format.JSON:
        print_json(found)
    else:
        typer.echo(f"{found.name}: {_alias(alias)} is now {found.aliases.get(_alias(alias), '-')}")
        print_replicas(found.replicas)


@app.command()
def rollback(
    ctx: typer.Context, model: ModelArgument, alias: AliasOption = _PRODUCTION, output: Output = Format.TEXT
) -> None:
    """Point an alias at the version before; once more is one version further back."""
    with state_of(ctx).client() as client:
        # what is seen now is what is left: somebody else's move in between is not undone
        seen = client.models.get(model).aliases.get(_alias(alias), "")
        done = client.models.rollback(model, _alias(alias), from_version=seen)
    if output is Format.JSON:
        print_json(done)
    else:
        typer.echo(
            f"{done.model.name}: {_alias(alias)} went back from {done.from_version} to {done.to_version}"
        )
        print_replicas(done.model.replicas)


@app.command()
def verify(
    ctx: typer.Context,
    model: ModelArgument,
    version: VersionArgument = _PRODUCTION,
    output: Output = Format.TEXT,
) -> None:
    """Have signature, digest and loading of a version checked again; exit 1 when there is a fault."""
    with state_of(ctx).client() as client:
        found = client.models.verify(model, _resolved(client, model, version))
    if output is Format.JSON:
        print_json(found)
    else:
        print_checks(found)
    if not found:
        raise typer.Exit(1)


@app.command("rm")
def remove(
    ctx: typer.Context,
    model: ModelArgument,
    versions: Annotated[
        list[str] | None,
        typer.Argument(metavar="[VERSION]...", help="Versions to delete, for good.", show_default=False),
    ] = None,
    alias: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ALIAS", help="Remove this alias first; repeat it. `prod` is short for production."
        ),
    ] = None,
    output: Output = Format.TEXT,
) -> None:
    """Delete versions that no alias points at, or aliases; a deleted id is never used again."""
    if not (versions or alias):
        raise UsageError("name the versions to delete, or an --alias")
    aliases = [_alias(text) for text in alias or ()]
    with state_of(ctx).client() as client:
        replicas = [client.models.delete_alias(model, text).replicas for text in aliases]
        replicas += [client.models.delete(model, version) for version in versions or ()]
    if output is Format.JSON:
        print_json({"deleted": versions or [], "deleted_aliases": aliases, "replicas": replicas[-1]})
    else:
        print_replicas(replicas[-1])


def _alias(text: str) -> str:
    return _PRODUCTION if text == "prod" else text


def _resolved(client: Client, model: ModelArgument, version: str) -> str:
    """Return the id of a version that may be named by an alias."""
    return client.models.get(model).aliases.get(_alias(version), version)
