"""What the options before the command say, for the commands after them."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aegis_client.client import Client
    from aegis_client.profiles import Profile


class Format(StrEnum):
    TEXT = "text"
    JSON = "json"


@dataclass(slots=True)
class CliState:
    """One run of the command.

    Attributes:
        profile_file: From `--profile-file`.
        profile_name: From `--profile`.
        format: How the answer, or an error, is printed.
        profile: The profile that was used, once one was.
    """

    profile_file: Path | None = None
    profile_name: str | None = None
    format: Format = Format.TEXT
    profile: Profile | None = None

    def load_profile(self) -> Profile:
        from aegis_client.profiles import load_profile

        self.profile = load_profile(self.profile_name, file=self.profile_file)
        return self.profile

    @contextmanager
    def client(self) -> Iterator[Client]:
        from aegis_client.client import Client

        with Client(self.load_profile()) as client:
            yield client


def state_of(ctx: typer.Context) -> CliState:
    state = ctx.find_object(CliState)
    if state is None:
        raise RuntimeError("the command runs outside of `aegis`")
    return state


def _remember(ctx: typer.Context, value: Format) -> Format:
    # an error has to know the format even when the command has not begun
    state_of(ctx).format = value
    return value


Output = Annotated[
    Format,
    typer.Option(
        "-o", "--output", help="How to print: text or json.", callback=_remember, show_default=False
    ),
]
"""The `-o` option that every command has."""
