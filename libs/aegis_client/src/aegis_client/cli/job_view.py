"""A job on the screen: live on a terminal, else one plain line for each event; and in words."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import typer

from aegis_client.cli.output import clock, print_fields, print_json, print_json_line, short
from aegis_client.cli.state import Format

if TYPE_CHECKING:
    from aegis_client.job_forms import Job, JobEvent, JobProgress, JobReservation
    from aegis_client.parts import Part


class View(Protocol):
    """What takes the events of a job."""

    def show(self, event: JobEvent) -> None: ...


@contextmanager
def view(output: Format) -> Iterator[View]:
    """Return the view that fits the output."""
    if output is Format.JSON:
        yield JsonLines()
    elif sys.stderr.isatty():
        with live() as screen:
            yield screen
    else:
        yield PlainLines()


class JsonLines:
    """One JSON object a line."""

    def show(self, event: JobEvent) -> None:
        print_json_line(event)


class PlainLines:
    """One line of text for each event, beside the result."""

    def __init__(self) -> None:
        self._state = ""

    def show(self, event: JobEvent) -> None:
        line = event_line(event)
        if event.job is not None:
            if line == self._state:
                return  # told already: before a reconnect, or as the job's last state
            self._state = line
        if line:
            typer.echo(line, err=True)


@contextmanager
def live() -> Iterator[View]:
    """Keep a progress bar below the lines of the log."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.text import Text

    console = Console(stderr=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)

        class Screen:
            def show(self, event: JobEvent) -> None:
                if event.progress is not None:
                    description = progress_text(event.progress)
                    bar.update(
                        task,
                        completed=event.progress.done,
                        total=event.progress.total,
                        description=description,
                    )
                elif event.kind == "state" and event.job is not None:
                    bar.update(task, description=event.job.state_message)
                elif line := event_line(event):
                    # Text, so that brackets in a message are no markup
                    console.print(Text(line))

        yield Screen()


def event_line(event: JobEvent) -> str:
    """Return one event in words; nothing for one that has none."""
    if event.job is not None:
        return state_line(event.job)
    if event.progress is not None:
        return progress_text(event.progress)
    if event.kind == "log":
        return f"{event.level}  {event.message}"
    if event.kind == "chunk":
        if event.omitted_bytes:
            return f"an item of {event.omitted_bytes} bytes; the result has it"
        return "\n".join(part_text(part) for part in event.parts)
    return ""


def state_line(job: Job) -> str:
    return f"{short(job.name)}  {job.phase or job.state}: {job.state_message}"


def progress_text(progress: JobProgress) -> str:
    total = "" if progress.total is None else f" of {progress.total:g}"
    return f"{progress.done:g}{total}  {progress.message}".rstrip()


def part_text(part: Part) -> str:
    if part.text is not None:
        return part.text
    if part.json is not None:
        return json.dumps(part.json, indent=2, ensure_ascii=False)
    if part.data is not None:
        return f"{part.media_type or 'bytes'}, {len(part.data)} bytes; -o json has them"
    return str(part.content)


def result_lines(job: Job) -> list[str]:
    """Return the result of a job for people."""
    return [*(part_text(part) for part in job.parts), *(f"warning: {text}" for text in job.warnings)]


def _reservation(found: JobReservation) -> str:
    name = short(found.name)
    if found.planned_start_time is None:
        return f"{name}, without a plan"
    saving = "" if found.expected_saving is None else f", expected saving {found.expected_saving:.0%}"
    return f"{name}, planned for {clock(found.planned_start_time)}{saving}"


def print_job(job: Job, output: Format) -> None:
    if output is Format.JSON:
        print_json(job)
        return
    error = f"{job.error.reason}: {job.error.message}" if job.error else ""
    print_fields(
        {
            "name": job.name,
            "tool": f"{short(job.tool)} {job.tool_version}".rstrip(),
            "state": job.phase or job.state,
            "message": "" if error else job.state_message,
            "error": error,
            "dead letter": f"yes; run it again: aegis jobs retry {short(job.name)}"
            if job.dead_letter
            else "",
            "progress": progress_text(job.progress) if job.progress and not job.ended else "",
            "priority": job.priority.lower(),
            "attempt": f"{job.attempt}" if job.attempt else "",
            "labels": ", ".join(f"{key}={value}" for key, value in sorted(job.labels.items())),
            "created": f"{clock(job.create_time)} by {job.creator}",
            "started": clock(job.start_time) if job.start_time else "",
            "ended": clock(job.end_time) if job.end_time else "",
            "deadline": clock(job.deadline) if job.deadline else "",
            "reservation": _reservation(job.reservation) if job.reservation else "",
            "latest start": clock(job.latest_start) if job.latest_start and not job.start_time else "",
            "model": job.model_version,
            "kept until": clock(job.expire_time) if job.expire_time else "",
            "trace": job.trace_id,
        }
    )
