"""`aegis version`."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Final

import typer

from aegis_client.cli.output import print_fields, print_json
from aegis_client.cli.state import Format, Output

app = typer.Typer(rich_markup_mode=None)
_DISTRIBUTIONS: Final = (
    "aegis-client",
    "aegis-protos",
    "aegis-common",
    "aegis-local",
    "aegis-gateway",
    "aegis-agent",
    "aegis-carbon",
    "aegis-fl-coordinator",
    "grpcio",
    "protobuf",
)


@app.command()
def show(output: Output = Format.TEXT) -> None:
    """Print versions, for bug reports."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    if output is Format.JSON:
        print_json(found)
    else:
        print_fields(found)
