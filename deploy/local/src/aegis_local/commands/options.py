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
