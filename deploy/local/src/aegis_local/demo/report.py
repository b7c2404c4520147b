"""What the demo prints, and whether every check held."""

from __future__ import annotations

import time

import typer


class Report:
    """Prints headings, lines and checks; remembers the checks that failed."""

    def __init__(self) -> None:
        self.failures = 0
        self._start = time.monotonic()

    def heading(self, text: str) -> None:
        typer.echo(f"\n[{time.monotonic() - self._start:6.1f} s] {text}")

    def line(self, text: str) -> None:
        typer.echo(f"    {text}")

    def check(self, what: str, holds: bool, *, expected: str, found: object) -> None:
        """Print what was found; when the check does not hold, print what was expected as well."""
        if holds:
            typer.echo(f" ok {what}: {found}")
            return
        self.failures += 1
        typer.echo(f" FAILED {what}: expected {expected}, found {found}")

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start
