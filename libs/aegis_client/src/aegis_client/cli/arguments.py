"""Arguments of a tool as they are typed on the command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from aegis_client.errors import UsageError

ArgumentOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=VALUE",
        help="An argument; repeat it. VALUE is JSON if it reads as JSON, else text; 'id=\"7\"' is text.",
    ),
]
JsonOption = Annotated[
    str,
    typer.Option(
        "--json",
        metavar="JSON|FILE|-",
        help="A JSON object of arguments: as it is ('{...}'), from a file, or from stdin.",
    ),
]
FileOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=PATH", help="A file as argument, sent raw, or as an artifact from 8 MiB on; repeat it."
    ),
]
ToolArgument = Annotated[
    str, typer.Argument(metavar="TOOL", help="Name of the tool, for example echo; see `aegis tools list`.")
]
JobArgument = Annotated[
    str, typer.Argument(metavar="JOB", help="Name of the job, as `jobs create` printed it; see `jobs list`.")
]
JobsArgument = Annotated[
    list[str], typer.Argument(metavar="JOB...", help="Names of the jobs; see `aegis jobs list`.")
]
RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="Name of the run, as `fl run` printed it; see `aegis fl list`.")
]
ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="Name of the model, for example digits; see `models list`.")
]


def pairs(texts: list[str] | None, option: str) -> list[tuple[str, str]]:
    """Return `NAME=VALUE` texts taken apart.

    Raises:
        UsageError: One is of another form; *option* is named.
    """
    found = [text.partition("=") for text in texts or ()]
    for name, sign, value in found:
        if not (name and sign):
            raise UsageError(f"{option} {name + sign + value!r} is not NAME=VALUE")
    return [(name, value) for name, _, value in found]


def json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def json_object(source: str) -> dict[str, Any]:
    """Return the JSON object that *source* is, names a file of, or has on stdin for `-`; `{}` for nothing.

    What begins with `{` is the object itself; `./{name` still is a file.

    Raises:
        UsageError: There is none.
    """
    if not source:
        return {}
    try:
        if source.lstrip().startswith("{"):
            text = source
        else:
            text = sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8")
        value = json.loads(text)
    except OSError as error:
        raise UsageError(f"--json {source} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"--json {source} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise UsageError(f"--json {source} is not a JSON object")
    return value
