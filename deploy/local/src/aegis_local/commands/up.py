"""`aegis up`: the whole stack on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from aegis_local.commands.options import AgentsOption, StateDirOption
from aegis_local.environment import scripts
from aegis_local.errors import NotRunning
from aegis_local.ports import DEFAULT_BASE
from aegis_local.state import DEFAULT_DIR, StateDir
from aegis_local.supervisor.child import StartFailed
from aegis_local.supervisor.processes import kill_stack
from aegis_local.system import default_nodes

if TYPE_CHECKING:
    from aegis_local.runner import Options
    from aegis_local.stack.layout import Layout

app = typer.Typer(add_completion=False)
_DETACHED_READY_S: Final = 240.0
_NAME_WIDTH: Final = 14


@app.command()
def up(
    port_base: Annotated[
        int, typer.Option(help="First port; the others follow it. 0 picks free ports.")
    ] = DEFAULT_BASE,
    nodes: Annotated[
        int | None,
        typer.Option(min=0, max=32, help="Training nodes. Default: 3 where torch is installed, else 0."),
    ] = None,
    agents: AgentsOption = 1,
    detach: Annotated[bool, typer.Option("--detach", help="Return when everything is ready.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Log to files only.")] = False,
    state_dir: StateDirOption = DEFAULT_DIR,
) -> None:
    """Start Redis, the services, Flower and the gateway; stop them all on Ctrl-C. Development only."""
    from aegis_local.runner import Options

    if nodes is None:
        nodes, why = default_nodes()
        if why:
            typer.echo(why, err=True)
    echo = None if quiet else _echo
    options = Options(state_dir=state_dir, port_base=port_base, nodes=nodes, agents=agents, echo=echo)
    if detach:
        _detach(options)
        return
    asyncio.run(_run(options))


async def _run(options: Options) -> None:
    stop, ready = _stop_on_signals(StateDir.at(options.state_dir)), asyncio.Event()
    serving = asyncio.create_task(_serve(options, stop, ready))
    asked = asyncio.create_task(stop.wait())
    await asyncio.wait({serving, asked}, return_when=asyncio.FIRST_COMPLETED)
    if stop.is_set() and not ready.is_set():
        serving.cancel()
    try:
        with contextlib.suppress(asyncio.CancelledError):
            await serving
    finally:
        asked.cancel()
    typer.echo("stopped")


async def _serve(options: Options, stop: asyncio.Event, ready: asyncio.Event) -> None:
    from aegis_local.banner import banner
    from aegis_local.runner import running_stack

    def welcome(layout: Layout) -> None:
        typer.echo(banner(layout))

    async with running_stack(options, progress=typer.echo, welcome=welcome):
        ready.set()
        await stop.wait()
        typer.echo("stopping")


def _detach(options: Options) -> None:
    """Run `aegis up` in the background and return when it is ready.

    Raises:
        StartFailed: It is not ready in time.
    """
    state = StateDir.at(options.state_dir)
    state.prepare_logs()
    log = state.logs / "up.log"
    argv = [str(scripts() / "aegis"), "up", "--quiet", "--state-dir", str(state.root)]
    argv += ["--port-base", str(options.port_base), "--nodes", str(options.nodes)]
    argv += ["--agents", str(options.agents)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    try:
        _wait_until_ready(process, state, log)
    except BaseException:
        process.terminate()
        process.wait()
        raise
    typer.echo(log.read_text(encoding="utf-8", errors="replace").rstrip())
    typer.echo(f"running in the background (pid {process.pid})")


def _wait_until_ready(process: subprocess.Popen[bytes], state: StateDir, log: Path) -> None:
    end = time.monotonic() + _DETACHED_READY_S
    while time.monotonic() < end:
        if process.poll() is not None:
            typer.echo(log.read_text(encoding="utf-8", errors="replace").rstrip(), err=True)
            raise typer.Exit(process.returncode or 1)
        with contextlib.suppress(NotRunning):
            if state.holder() == process.pid and state.read_status()["phase"] == "ready":
                return
        time.sleep(0.2)
    raise StartFailed(f"not ready within {_DETACHED_READY_S:g} s; see {log}", log=str(log))


def _stop_on_signals(state: StateDir) -> asyncio.Event:
    stop = asyncio.Event()

    def asked() -> None:
        if stop.is_set():  # a second time: no more patience
            kill_stack(state.stack, within=0)
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, asked)
    return stop


def _echo(name: str, line: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        typer.echo(f"{name:<{_NAME_WIDTH}} | {line}")
