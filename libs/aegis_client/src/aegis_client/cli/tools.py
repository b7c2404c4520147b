"""`aegis tools`: list, describe, run, export, scaffold, add, files, remove."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aegis_client.cli import tool_files
from aegis_client.cli.arguments import (
    ArgumentOption,
    FileOption,
    JsonOption,
    ToolArgument,
    json_object,
    json_or_text,
    pairs,
)
from aegis_client.cli.lazy import PlainGroup
from aegis_client.cli.output import print_fields, print_json, print_table, seconds, short
from aegis_client.cli.scaffold import scaffold
from aegis_client.cli.state import Format, Output, state_of
from aegis_client.cli.times import duration_s
from aegis_client.cli.transfer import files_and_artifacts
from aegis_client.errors import UsageError

if TYPE_CHECKING:
    from datetime import timedelta

    from aegis_client.client import Client
    from aegis_client.parts import Part
    from aegis_client.tools import Tool, ToolResult

app = typer.Typer(
    cls=PlainGroup, help="List, describe, run and add tools.", no_args_is_help=True, rich_markup_mode=None
)
app.command("scaffold")(scaffold)
app.command("add")(tool_files.add)
app.command("files")(tool_files.files)
app.command("remove")(tool_files.remove)


class ExportFormat(Enum):
    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    JSON_SCHEMA = "json-schema"


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
def describe(ctx: typer.Context, tool: ToolArgument, output: Output = Format.TEXT) -> None:
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
            "concurrency": f"{found.concurrency} in each {found.concurrency_scope.lower()}",
            "queue": f"{found.queue_size} in each replica{_wait(found.queue_timeout)}",
            "priority": found.priority.lower(),
            "idempotent": "yes" if found.idempotent else "no",
            "retries": found.retries or "",
            "result": ", ".join(_result_words(found)),
            "tags": ", ".join(found.tags),
        }
    )
    for title, schema in (("input", found.input_schema), ("output", found.output_schema)):
        typer.echo(f"{title}\n{json.dumps(schema, indent=2, ensure_ascii=False)}")


@app.command()
def run(
    ctx: typer.Context,
    tool: ToolArgument,
    arg: ArgumentOption = None,
    json_file: JsonOption = "",
    file: FileOption = None,
    timeout: Annotated[
        str,
        typer.Option(
            metavar="DURATION",
            help="Longest time it may take, for example 90s; at most 10m. Default: the tool's own.",
        ),
    ] = "",
    out: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Write the bytes that the tool gives to this file.")
    ] = None,
    priority: Annotated[
        str,
        typer.Option(
            metavar="CLASS", help="high, normal or low, where the call has to wait. Default: the tool's own."
        ),
    ] = "",
    stream: Annotated[
        bool, typer.Option("--stream", help="Show progress, log lines and items as they come.")
    ] = False,
    show_curl: Annotated[
        bool, typer.Option("--show-curl", help="Print the same call for curl, instead of making it.")
    ] = False,
    output: Output = Format.TEXT,
) -> None:
    """Run a tool and print its result.

    For example: aegis tools run image_ocr --file image=scan.png
    """
    arguments = json_object(json_file) | {key: json_or_text(text) for key, text in pairs(arg, "--arg")}
    files = dict(pairs(file, "--file"))
    limit = duration_s(timeout, "--timeout")
    state = state_of(ctx)
    if show_curl:
        from aegis_client.cli.curl import curl
        from aegis_client.tools import run_operation, stream_feed

        made = stream_feed if stream else run_operation
        call = made(tool, arguments, files=files, timeout=limit, priority=priority)
        typer.echo(curl(call, state.load_profile()))
        return
    from aegis_client.cli import tool_view

    if stream:
        if out:
            raise UsageError("--out goes with a single result; leave out --stream, or use -o json")
        with state.client() as client, tool_view.view(output) as view:
            inline, stored = files_and_artifacts(client, list(files.items()))
            for event in client.tools.stream(
                tool, arguments, files=inline, parts=stored, timeout=limit, priority=priority
            ):
                view.show(event)
        return
    with state.client() as client:
        inline, stored = files_and_artifacts(client, list(files.items()))
        result = client.tools.run(
            tool, arguments, files=inline, parts=stored, timeout=limit, priority=priority
        )
        if out:
            _save(client, result, out)
    if output is Format.JSON:
        print_json(tool_view.result_json(result))
    else:
        tool_view.print_result(result, saved=bool(out))


@app.command()
def export(
    ctx: typer.Context,
    tools: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TOOL]...", help="Which tools. Default: all that you may use."),
    ] = None,
    form: Annotated[
        ExportFormat, typer.Option("--format", help="For whom the definitions are.")
    ] = ExportFormat.JSON_SCHEMA,
) -> None:
    """Print tools as definitions for language model APIs.

    For example: aegis tools export --format openai echo
    """
    from aegis_client.tool_exports import export as definitions

    with state_of(ctx).client() as client:
        found = [client.tools.get(name) for name in tools or ()] or list(client.tools.list())
    print_json(definitions(found, form.value))


def _wait(limit: timedelta | None) -> str:
    return f" for {seconds(limit)} at most" if limit else ""


def _result_words(tool: Tool) -> list[str]:
    streamed = "item by item with --stream" if tool.streams else ""
    return [word for word in (streamed, "may be cached" if tool.cacheable else "") if word]


def _save(client: Client, result: ToolResult, path: Path) -> None:
    raw: list[Part] = [part for part in result.parts if part.data is not None or part.artifact is not None]
    if len(raw) != 1:
        raise UsageError(f"--out {path}: the tool gave {len(raw)} results of raw bytes, not one; use -o json")
    if raw[0].artifact is not None:
        client.artifacts.get(raw[0].artifact, path)
        return
    try:
        path.write_bytes(raw[0].data or b"")
    except OSError as error:
        raise UsageError(f"--out {path} cannot be written: {error.strerror}") from error
