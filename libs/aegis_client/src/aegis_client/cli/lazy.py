"""A command group that knows its commands by name and help, and imports one only when it is used."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import click
import typer
from click.shell_completion import CompletionItem
from typer.core import TyperGroup

ENTRY_POINTS: Final = "aegis.commands"
_SENTENCE_CHARS: Final = 200
_COMPLETION: Final = frozenset({"install_completion", "show_completion"})


@dataclass(frozen=True, slots=True)
class Known:
    """A command that is not imported yet.

    Attributes:
        help: One line for the list of commands.
        module: Module of this package with the command as `app`, or empty for one of another distribution.
        distribution: What to install for a command of another distribution.
    """

    help: str
    module: str = ""
    distribution: str = ""


class PlainGroup(TyperGroup):
    """Lists its commands with the whole first sentence of each; a wrong name is told what comes near it."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, self.summary(ctx, name)) for name in self.list_commands(ctx)])

    def summary(self, ctx: click.Context, name: str) -> str:
        """Return what a command does, in one sentence."""
        command = self.get_command(ctx, name)
        return command.get_short_help_str(_SENTENCE_CHARS) if command else ""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return click.Group.resolve_command(self, ctx, args)
        except click.UsageError:
            name = args[0]
            if name.startswith("-"):
                raise
            # click before 8.5 names nothing, typer only what is imported, and together they say it twice
            near = difflib.get_close_matches(name, self.list_commands(ctx))
            hint = f"; near: {', '.join(near)}" if near else ""
            raise click.UsageError(f"there is no command {name!r}{hint}", ctx) from None


class LazyGroup(PlainGroup):
    """Lists the commands of `known`; further ones of the entry-point group work, but are not listed."""

    known: Mapping[str, Known] = {}

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(self.known)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        entry = self.known.get(cmd_name)
        if entry and entry.module:
            return as_command(importlib.import_module(entry.module).app, cmd_name)
        return _external(cmd_name) or (_missing(cmd_name, entry) if entry else None)

    def summary(self, ctx: click.Context, name: str) -> str:  # noqa: ARG002
        return self.known[name].help

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        names = [
            CompletionItem(name, help=entry.help)
            for name, entry in self.known.items()
            if name.startswith(incomplete)
        ]
        return [*names, *click.Command.shell_complete(self, ctx, incomplete)]


class ExtendedGroup(PlainGroup):
    """Its own commands, and those of `known` that come with other distributions.

    The entry point of such a command is called by the whole of it, for example `fl simulate`.
    """

    known: Mapping[str, Known] = {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*super().list_commands(ctx), *self.known]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = self.known.get(cmd_name)
        if entry is None:
            return super().get_command(ctx, cmd_name)
        whole = f"{self.name} {cmd_name}"
        command = _external(whole) or _missing(whole, entry)
        command.name = cmd_name
        return command

    def summary(self, ctx: click.Context, name: str) -> str:
        entry = self.known.get(name)
        return entry.help if entry else super().summary(ctx, name)


def _external(name: str) -> click.Command | None:
    from importlib.metadata import entry_points

    found = entry_points(group=ENTRY_POINTS, name=name)
    return as_command(next(iter(found)).load(), name) if found else None


def as_command(value: Any, name: str) -> click.Command:
    if isinstance(value, click.Command):
        command = value
    elif isinstance(value, typer.Typer):
        command = typer.main.get_command(value)
    else:
        raise TypeError(f"command {name!r} is a {type(value).__name__}, not a Typer app or a click Command")
    command.name = name
    # completion is installed once, by `aegis` itself
    command.params = [item for item in command.params if item.name not in _COMPLETION]
    return command


def _missing(name: str, entry: Known) -> click.Command:
    """Return a command that takes anything and says what to install."""

    def refuse() -> None:
        raise click.UsageError(
            f"`aegis {name}` comes with another package; install it: pip install {entry.distribution}"
        )

    return click.Command(
        name,
        callback=refuse,
        help=entry.help,
        add_help_option=False,
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )
