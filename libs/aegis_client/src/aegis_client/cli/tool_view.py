"""Shows what a tool tells while it runs: items on stdout, progress and log lines on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import typer

from aegis_client.cli.output import jsonable, print_json_line, seconds, short
from aegis_client.cli.state import Format
from aegis_client.tool_events import ToolItem, ToolLog, ToolProgress, ToolStarted

if TYPE_CHECKING:
    from rich.progress import Progress

    from aegis_client.parts import Part
    from aegis_client.tools import ToolEvent, ToolResult


class View(Protocol):
    """What takes the events of a call."""

    def show(self, event: ToolEvent) -> None: ...


@contextmanager
def view(output: Format) -> Iterator[View]:
    """Return the view that fits the output."""
    if output is Format.JSON:
        yield JsonLines()
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True), transient=True) as progress:
            yield Live(progress)
    else:
        yield PlainLines()


class JsonLines:
    """One JSON object a line, with `event` for its kind."""

    def show(self, event: ToolEvent) -> None:
        kind = type(event).__name__.removeprefix("Tool").lower()
        print_json_line({"event": kind} | result_json(event) if kind == "result" else _line(kind, event))


class PlainLines:
    """One line of text for each event."""

    def show(self, event: ToolEvent) -> None:
        if isinstance(event, ToolStarted):
            if event.queue_time:
                typer.echo(f"started after {seconds(event.queue_time)}", err=True)
        elif isinstance(event, ToolProgress):
            typer.echo(_progress_text(event), err=True)
        elif isinstance(event, ToolLog):
            typer.echo(_log_text(event), err=True)
        elif isinstance(event, ToolItem):
            print_parts(event.parts, indent=None)
        else:
            print_result(event)


class Live(PlainLines):
    """The same, with a bar in place of the lines of progress."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bar = progress.add_task("waiting", total=None)

    def show(self, event: ToolEvent) -> None:
        if isinstance(event, ToolStarted):
            self._progress.update(self._bar, description="running")
        elif isinstance(event, ToolProgress):
            self._progress.update(
                self._bar, completed=event.done, total=event.total, description=event.message or "running"
            )
        elif isinstance(event, ToolLog):
            self._progress.console.print(_log_text(event), markup=False, highlight=False)
        else:
            super().show(event)


def print_result(result: ToolResult, *, saved: bool = False) -> None:
    """Print a result on stdout, and on stderr what stands around it."""
    from aegis_client.trace import last_trace_id

    print_parts(result.parts, indent=2, saved=saved)
    for warning in result.warnings:
        typer.echo(f"warning: {warning}", err=True)
    version = result.model_version or f"{short(result.tool)} {result.tool_version}"
    took = "cached" if result.cached else seconds(result.execution_time)
    typer.echo(f"{version}  {took}  trace {last_trace_id()}", err=True)


def print_parts(parts: tuple[Part, ...], *, indent: int | None, saved: bool = False) -> None:
    for part in parts:
        if part.text is not None:
            typer.echo(part.text)
        elif part.json is not None:
            typer.echo(json.dumps(part.json, indent=indent, ensure_ascii=False))
        elif part.artifact is not None:
            typer.echo(
                f"{part.media_type or 'content'} in {part.artifact}; aegis artifacts get {part.artifact}"
            )
        elif not saved:
            typer.echo(f"{part.media_type or 'bytes'}, {len(part.data or b'')} bytes; --out PATH writes them")


def result_json(result: Any) -> dict[str, Any]:
    """Return a result as JSON values, with the trace of the call."""
    from aegis_client.trace import last_trace_id

    fields: dict[str, Any] = jsonable(result)
    fields["parts"] = _full(fields["parts"])
    return fields | {"trace_id": last_trace_id()}


def _line(kind: str, event: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {"event": kind} | jsonable(event)
    if "parts" in fields:
        fields["parts"] = _full(fields["parts"])
    return fields


def _full(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in part.items() if value != ""} for part in parts]


def _progress_text(event: ToolProgress) -> str:
    count = f"{event.done:g}" if event.total is None else f"{event.done:g}/{event.total:g}"
    return f"{count}  {event.message}".rstrip()


def _log_text(event: ToolLog) -> str:
    return f"{event.level.lower()}: {event.message}"
