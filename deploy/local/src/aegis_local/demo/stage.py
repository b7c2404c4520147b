"""Runs a show on a stack of its own: free ports, a temporary state directory, nothing left afterwards."""

from __future__ import annotations

import asyncio
import shutil
import signal
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import typer

from aegis_client import AegisClientError
from aegis_common.errors import AegisError
from aegis_local.demo.report import Report
from aegis_local.runner import Options, Stack, running_stack

Show = Callable[[Stack, Report], Awaitable[None]]


def run_show(show: Show, *, nodes: int, keep: bool) -> int:
    """Run *show* and return the exit status: 0 only when every check held.

    Args:
        show: What to do with the stack.
        nodes: Training nodes of the stack.
        keep: Keep the state directory, to look at its logs.
    """
    folder = Path(tempfile.mkdtemp(prefix="aegis-"))
    report = Report()
    try:
        asyncio.run(_run(show, report, folder / "state", nodes))
    except (AegisError, AegisClientError) as error:
        report.failures += 1
        typer.echo(f" FAILED {type(error).__name__}: {error}")
    except (KeyboardInterrupt, asyncio.CancelledError):
        typer.echo("interrupted")
        return 130
    finally:
        if keep:
            typer.echo(f"state and logs are in {folder / 'state'}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    if report.failures:
        typer.echo(f"\n{report.failures} checks failed after {report.seconds:.0f} s")
        return 1
    typer.echo(f"\nEvery check held; {report.seconds:.0f} s in all. Everything is stopped.")
    return 0


async def _run(show: Show, report: Report, state_dir: Path, nodes: int) -> None:
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    report.heading(f"Starting the stack with {nodes} training nodes")
    options = Options(state_dir=state_dir, port_base=0, nodes=nodes)
    async with running_stack(options, progress=report.line) as stack:
        await show(stack, report)
        report.heading("Stopping")
