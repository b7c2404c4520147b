"""`aegis doctor`: what is wrong on this machine, and how to mend it."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from aegis_local.commands.options import AgentsOption, StateDirOption
from aegis_local.ports import DEFAULT_BASE
from aegis_local.state import DEFAULT_DIR, StateDir

app = typer.Typer(add_completion=False)
_WIDTH: Final = 28


@app.command()
def doctor(
    port_base: Annotated[int, typer.Option(help="First port, as for `aegis up`.")] = DEFAULT_BASE,
    agents: AgentsOption = 1,
    state_dir: StateDirOption = DEFAULT_DIR,
) -> None:
    """Check platform, programs, ports, disk and imports; exit status 1 when the stack cannot start."""
    from aegis_local.doctor import Level, examine
    from aegis_local.system import default_nodes

    faults = 0
    findings = examine(StateDir.at(state_dir), port_base=port_base, nodes=default_nodes()[0], agents=agents)
    for finding in findings:
        faults += finding.level is Level.FAULT
        typer.echo(f"{finding.level:<8} {finding.what:<{_WIDTH}} {finding.detail}")
        if finding.fix:
            typer.echo(f"{'':<8} {'':<{_WIDTH}} fix: {finding.fix}")
    if faults:
        raise typer.Exit(1)
