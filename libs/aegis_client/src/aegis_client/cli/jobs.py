"""`aegis jobs`: create, list, get, watch, cancel, retry, explain."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from aegis_client.cli.arguments import (
    ArgumentOption,
    FileOption,
    JobArgument,
    JobsArgument,
    JsonOption,
    ToolArgument,
    json_object,
    json_or_text,
    pairs,
)
from aegis_client.cli.failures import show
from aegis_client.cli.job_view import print_job, result_lines, state_line, view
from aegis_client.cli.lazy import PlainGroup
from aegis_client.cli.output import clock, print_json, print_table, seconds, short
from aegis_client.cli.state import Format, Output, state_of
from aegis_client.cli.times import WHEN, ahead_of, duration_s, moment_of
from aegis_client.cli.transfer import files_and_artifacts
from aegis_client.errors import AegisApiError

if TYPE_CHECKING:
    from aegis_client.client import Client
    from aegis_client.job_forms import Job

app = typer.Typer(
    cls=PlainGroup,
    help="Run tools as durable jobs, and follow them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command()
def create(
    ctx: typer.Context,
    tool: ToolArgument,
    arg: ArgumentOption = None,
    json_file: JsonOption = "",
    file: FileOption = None,
    timeout: Annotated[
        str,
        typer.Option(
            metavar="DURATION",
            help="Longest time of one attempt, for example 90s or 2h. Default: the tool's own.",
        ),
    ] = "",
    not_before: Annotated[
        str, typer.Option(metavar=WHEN, help="Earliest start, for example 2h or 'tomorrow 06:00'.")
    ] = "",
    deadline: Annotated[
        str,
        typer.Option(metavar=WHEN, help="When it has to have ended, for example 8h or 2026-12-01T06:00Z."),
    ] = "",
    priority: Annotated[
        str,
        typer.Option(
            metavar="CLASS",
            help="low, normal or high; above the tool's own for admins only. Default: the tool's own.",
        ),
    ] = "",
    max_attempts: Annotated[
        int, typer.Option(min=0, max=20, help="Most attempts. 0: 3 for an idempotent tool, else 1.")
    ] = 0,
    clean: Annotated[
        bool, typer.Option("--clean", help="Run in the cleanest time within the wait, by a reservation.")
    ] = False,
    zone: Annotated[
        str, typer.Option(help="Grid zone that counts, for example GB. Default: the deployment's.")
    ] = "",
    max_intensity: Annotated[
        float | None,
        typer.Option(
            metavar="G_PER_KWH",
            help="Start as soon as the grid is that clean, without a reservation.",
        ),
    ] = None,
    max_wait: Annotated[
        str,
        typer.Option(
            metavar="DURATION", help="Longest wait for the grid. Default: until the deadline, else 1h."
        ),
    ] = "",
    carbon_duration: Annotated[
        str,
        typer.Option(
            metavar="DURATION", help="How long it runs, about, for its reservation. Default: --timeout."
        ),
    ] = "",
    pool: Annotated[
        str, typer.Option(metavar="NAME", help="Capacity pool of the deployment in which it runs.")
    ] = "",
    label: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="A label; repeat it.")] = None,
    request_id: Annotated[
        str,
        typer.Option(
            metavar="UUID",
            help="Idempotency key: the same one again gives the same job. With it give times, no durations: "
            "these are other times each time.",
        ),
    ] = "",
    detach: Annotated[bool, typer.Option("--detach", help="Do not follow the job.")] = False,
    output: Output = Format.TEXT,
) -> None:
    """Create a job and follow it.

    For example: aegis jobs create image_ocr --file image=scan.png --deadline 8h
    """
    arguments = json_object(json_file) | {key: json_or_text(text) for key, text in pairs(arg, "--arg")}
    # asked again with its key, a job that was made is found, also when its start has come meanwhile
    start = moment_of if request_id else ahead_of
    with state_of(ctx).client() as client:
        inline, stored = files_and_artifacts(client, pairs(file, "--file"))
        made = client.jobs.create(
            tool,
            arguments,
            files=inline,
            parts=stored,
            tool_timeout=duration_s(timeout, "--timeout"),
            not_before=start(not_before, "--not-before"),
            deadline=moment_of(deadline, "--deadline"),
            priority=priority,
            max_attempts=max_attempts,
            wait_for_clean_grid=clean,
            zone=zone,
            max_intensity=max_intensity,
            max_wait=duration_s(max_wait, "--max-wait"),
            carbon_duration=duration_s(carbon_duration, "--carbon-duration"),
            pool=pool,
            labels=dict(pairs(label, "--label")),
            request_id=request_id,
        )
        if detach:
            print_job(made, output)
            return
        if output is Format.TEXT:
            typer.echo(f"{made.name}  trace {made.trace_id}", err=True)
        _follow(client, made, output)


@app.command()
def watch(ctx: typer.Context, name: JobArgument, output: Output = Format.TEXT) -> None:
    """Follow a job to its end; the exit code is 1 when it did not complete."""
    with state_of(ctx).client() as client:
        _follow(client, client.jobs.get(name), output)


@app.command("list")
def list_jobs(
    ctx: typer.Context,
    filter_: Annotated[
        str,
        typer.Option(
            "--filter",
            metavar="FILTER",
            help='For example: state = FAILED AND labels.team = "red". Fields: state, phase, priority, tool, '
            "creator, reason, dead_letter, create_time, labels.KEY.",
        ),
    ] = "",
    dead: Annotated[
        bool, typer.Option("--dead", help="Dead letters only: failed, and worth another attempt.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, help="Most jobs.")] = 100,
    output: Output = Format.TEXT,
) -> None:
    """List jobs, newest first."""
    wanted = " AND ".join(
        text for text in ("state = FAILED AND dead_letter = true" if dead else "", filter_) if text
    )
    found: list[Job] = []
    with state_of(ctx).client() as client:
        for job in client.jobs.list(filter=wanted, page_size=min(limit, 1000)):
            found.append(job)
            if len(found) == limit:
                break
    if output is Format.JSON:
        print_json(found)
        return
    rows = [
        (
            short(job.name),
            short(job.tool),
            job.phase or job.state,
            job.attempt,
            clock(job.create_time),
            _took(job),
        )
        for job in found
    ]
    print_table(("job", "tool", "state", "attempt", "created", "took"), rows, empty="no jobs")


@app.command()
def get(ctx: typer.Context, name: JobArgument, output: Output = Format.TEXT) -> None:
    """Show a job with its result."""
    with state_of(ctx).client() as client:
        found = client.jobs.get(name)
    print_job(found, output)
    if output is Format.TEXT:
        for line in result_lines(found):
            typer.echo(line)


@app.command()
def cancel(ctx: typer.Context, names: JobsArgument, output: Output = Format.TEXT) -> None:
    """Cancel jobs; a running one is stopped."""
    with state_of(ctx).client() as client:
        _each(ctx, names, client.jobs.cancel, output)


@app.command()
def retry(
    ctx: typer.Context,
    names: JobsArgument,
    deadline: Annotated[str, typer.Option(metavar=WHEN, help="A new deadline, for example 8h.")] = "",
    output: Output = Format.TEXT,
) -> None:
    """Run jobs that failed or were cancelled once more."""
    moment = moment_of(deadline, "--deadline")
    with state_of(ctx).client() as client:
        _each(ctx, names, partial(client.jobs.retry, deadline=moment), output)


@app.command()
def explain(ctx: typer.Context, name: JobArgument, output: Output = Format.TEXT) -> None:
    """Say why a job is where it is: what it waits for and until when, and every attempt with its error."""
    with state_of(ctx).client() as client:
        found = client.jobs.explain(name)
    if output is Format.JSON:
        print_json(found)
        return
    for line in found.lines:
        typer.echo(line)


def _follow(client: Client, job: Job, output: Format) -> None:
    final = job
    try:
        with view(output) as shown:
            for event in client.jobs.watch(job.name):
                shown.show(event)
                final = event.job or final
    except KeyboardInterrupt:
        name = short(job.name)
        typer.echo(
            f"{name} goes on; follow it: aegis jobs watch {name}; stop it: aegis jobs cancel {name}", err=True
        )
        raise
    if output is Format.TEXT:
        for line in result_lines(final):
            typer.echo(line)
    if not final.succeeded:
        raise typer.Exit(1)


def _each(ctx: typer.Context, names: list[str], act: Callable[[str], Job], output: Format) -> None:
    """Do one thing to each job, and tell of each: what fails for one keeps no other from it."""
    done: list[Job] = []
    failed: AegisApiError | None = None
    for name in names:
        try:
            job = act(name)
        except AegisApiError as error:
            if failed is not None:
                show(failed, state_of(ctx))
            failed = error
        else:
            done.append(job)
            if output is Format.TEXT:
                typer.echo(state_line(job))
    if output is Format.JSON:
        print_json(done)
    if failed is not None:
        raise failed


def _took(job: Job) -> str:
    if job.start_time is None or job.end_time is None:
        return "-"
    return seconds(job.end_time - job.start_time)
