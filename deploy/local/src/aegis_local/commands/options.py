"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

StateDirOption = Annotated[
    Path,
    typer.Option(
        "--state-dir",
        envvar="AEGIS_STATE_DIR",
        help="Folder of everything the stack keeps.",
        show_default=True,
    ),
]

AgentsOption = Annotated[
    int,
    typer.Option(
        "--agents", min=1, max=8, help="Replicas of the agent behind the gateway.", show_default=True
    ),
]
