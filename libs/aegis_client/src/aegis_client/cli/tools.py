"""`aegis tools`: list, describe, run."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aegis_client.cli.output import jsonable, print_fields, print_json, print_table, seconds, short
from aegis_client.cli.state import Format, Output, state_of
from aegis_client.errors import UsageError

if TYPE_CHECKING:
    from aegis_client.parts import Part
    from aegis_client.tools import ToolResult

app = typer.Typer(help="List, describe and run tools.", no_args_is_help=True, rich_markup_mode=None)


@app.command("list")
def list_tools(ctx: typer.Context, output: Output = Format.TEXT) -> None:
    """List the tools that you may use."""
    with state_of(ctx).client() as client:
        tools = list(client.tools.list())
    if output is Format.JSON:
        print_json(tools)
    else:
        rows = [(short(tool.name), tool.version, tool.description) for tool in tools]
        print_table(("tool", "version", "description"), rows, empty="no tools")


@app.command()
def describe(ctx: typer.Context, tool: str, output: Output = Format.TEXT) -> None:
    """Show what a tool takes and gives, and its limits."""
    with state_of(ctx).client() as client:
        found = client.tools.get(tool)
    if output is Format.JSON:
        print_json(found)
        return
    print_fields(
        {
            "name": found.name,
            "version": found.version,
            "description": found.description,
            "model": found.model,
            "timeout": f"{seconds(found.default_timeout)}, at most {seconds(found.max_timeout)}",
            "concurrency": f"{found.concurrency}, {found.queue_size} more wait",
            "idempotent": "yes" if found.idempotent else "no",
        }
    )
    for title, schema in (("input", found.input_schema), ("output", found.output_schema)):
        typer.echo(f"{title}\n{json.dumps(schema, indent=2, ensure_ascii=False)}")


@app.command()
def run(
    ctx: typer.Context,
    tool: str,
    arg: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="An argument; repeat it. VALUE is JSON if it reads as JSON, else text; 'id=\"7\"' is text.",
        ),
    ] = None,
    json_file: Annotated[
        str,
        typer.Option("--json", metavar="FILE|-", help="A JSON object of arguments, from a file or stdin."),
    ] = "",
    file: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=PATH", help="A file as argument, sent raw; repeat it."),
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Longest time the tool may take, up to 600 s.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Write the bytes that the tool gives to this file.")
    ] = None,
    show_curl: Annotated[
        bool, typer.Option("--show-curl", help="Print the same call for curl, instead of making it.")
    ] = False,
    output: Output = Format.TEXT,
) -> None:
    """Run a tool, for example: aegis tools run image_ocr --file image=scan.png."""
    arguments = _json_object(json_file) | {key: _json_or_text(text) for key, text in _pairs(arg, "--arg")}
    files = dict(_pairs(file, "--file"))
    state = state_of(ctx)
    if show_curl:
        from aegis_client.cli.curl import curl
        from aegis_client.tools import run_operation

        operation = run_operation(tool, arguments, files=files, timeout=timeout)
        typer.echo(curl(operation, state.load_profile()))
        return
    with state.client() as client:
        result = client.tools.run(tool, arguments, files=files, timeout=timeout)
    if out:
        _save(result, out)
    if output is Format.JSON:
        print_json(_as_json(result))
    else:
        _print_text(result, saved=bool(out))


def _as_json(result: ToolResult) -> dict[str, Any]:
    from aegis_client.trace import last_trace_id

    fields: dict[str, Any] = jsonable(result)
    fields["parts"] = [{key: value for key, value in part.items() if value != ""} for part in fields["parts"]]
    return fields | {"trace_id": last_trace_id()}


def _print_text(result: ToolResult, *, saved: bool) -> None:
    from aegis_client.trace import last_trace_id

    for part in result.parts:
        if part.text is not None:
            typer.echo(part.text)
        elif part.json is not None:
            typer.echo(json.dumps(part.json, indent=2, ensure_ascii=False))
        elif not saved:
            typer.echo(f"{part.media_type or 'bytes'}, {len(part.data or b'')} bytes; --out PATH writes them")
    for warning in result.warnings:
        typer.echo(f"warning: {warning}", err=True)
    version = result.model_version or f"{short(result.tool)} {result.tool_version}"
    typer.echo(f"{version}  {seconds(result.execution_time)}  trace {last_trace_id()}", err=True)


def _save(result: ToolResult, path: Path) -> None:
    raw: list[Part] = [part for part in result.parts if part.data is not None]
    if len(raw) != 1:
        raise UsageError(f"--out {path}: the tool gave {len(raw)} results of raw bytes, not one; use -o json")
    try:
        path.write_bytes(raw[0].data or b"")
    except OSError as error:
        raise UsageError(f"--out {path} cannot be written: {error.strerror}") from error


def _pairs(texts: list[str] | None, option: str) -> list[tuple[str, str]]:
    pairs = [text.partition("=") for text in texts or ()]
    for name, sign, value in pairs:
        if not (name and sign):
            raise UsageError(f"{option} {name + sign + value!r} is not NAME=VALUE")
    return [(name, value) for name, _, value in pairs]


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _json_object(source: str) -> dict[str, Any]:
    if not source:
        return {}
    try:
        text = sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8")
        value = json.loads(text)
    except OSError as error:
        raise UsageError(f"--json {source} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"--json {source} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise UsageError(f"--json {source} is not a JSON object")
    return value
