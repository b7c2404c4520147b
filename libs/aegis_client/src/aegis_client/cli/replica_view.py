"""What the command line says about the agents of a deployment after a change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from aegis_client.cli.output import printable

if TYPE_CHECKING:
    from aegis_client.replicas import ReplicaStatus


def print_replicas(replicas: Sequence[ReplicaStatus]) -> None:
    """Say on how many agents the change is live, and why it is not on the others (to the error output)."""
    behind = [item for item in replicas if not item.live]
    if len(replicas) > 1 and not behind:
        typer.echo(f"live on all {len(replicas)} agents")
    for item in behind:
        typer.echo(printable(f"{item.replica or 'other agents'}: {item.state}: {item.message}"), err=True)
