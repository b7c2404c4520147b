"""The help of every command says what it does, and what each argument and option is."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest
import typer.main

from aegis_client.cli.app import app, run


def _commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    if isinstance(command, click.Group):
        ctx = click.Context(command, info_name=path[-1] if path else "aegis")
        for name in command.list_commands(ctx):
            found = command.get_command(ctx, name)
            assert found is not None
            yield from _commands(found, (*path, name))


COMMANDS = list(_commands(typer.main.get_command(app)))


def _sections(text: str) -> dict[str, dict[str, str]]:
    """Return what stands under each heading: by the first column, which is two spaces in, the rest."""
    found: dict[str, dict[str, str]] = {}
    rows: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        if not line:
            rows = {}
        elif line.endswith(":") and not line.startswith(" "):
            rows = found[line.removesuffix(":")] = {}
        elif line.startswith("  ") and not line.startswith("   "):
            name, _, rest = line.strip().partition("  ")
            rows[name] = rest.strip()
        elif name in rows:
            rows[name] += f" {line.strip()}"
    return found


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_is_whole(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    code = run([*words, "--help"])

    text, missing = capsys.readouterr()
    if "comes with another package" in missing:
        pytest.skip("its package was installed before it had this command; make setup")
    assert code == 0
    sections = _sections(text)
    assert sections.keys() <= {"Arguments", "Options", "Commands"}
    for rows in sections.values():
        for name, said in rows.items():
            words_of_it = said.partition("[")[0].strip()
            assert words_of_it, f"{name} has no help"
            assert not words_of_it.endswith("..."), f"{name} is cut off"
            assert not ("Default:" in said and "[default:" in said), f"{name} tells its default twice"
            assert not ("Required" in said and "[required" in said), f"{name} tells twice that it is required"


def test_a_wrong_command_is_told_what_comes_near(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["tools", "lst"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "Error: there is no command 'lst'; near: list"
    assert run(["job"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "Error: there is no command 'job'; near: jobs"
