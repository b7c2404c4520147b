"""A command that is started, stopped and continued with all its processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Final

_TIMEOUT_OF_A_HOOK_S: Final = 60.0
# The kernel continues the command when this process dies: a stopped one would be forgotten.
_LAUNCHER: Final = """
import ctypes, os, signal, sys
try:
    ctypes.CDLL(None).prctl(1, signal.SIGCONT)
except (OSError, AttributeError):
    pass
try:
    os.execvp(sys.argv[1], sys.argv[1:])
except OSError as error:
    print(f"aegis: {sys.argv[1]}: {error.strerror}", file=sys.stderr)
    sys.exit(127 if isinstance(error, FileNotFoundError) else 126)
"""


class PacedProcess:
    """Runs *command* in a process group of its own.

    Args:
        command: Program and arguments.
        on_suspend: Shell command that suspends it, instead of SIGSTOP; it gets `AEGIS_PID`.
        on_resume: Shell command that continues it, instead of SIGCONT.
    """

    def __init__(self, command: Sequence[str], *, on_suspend: str = "", on_resume: str = "") -> None:
        self._command = list(command)
        self._on_suspend, self._on_resume = on_suspend, on_resume
        self._process: subprocess.Popen[bytes] | None = None
        self._since: float | None = None
        self._before_s = 0.0
        self._spans: list[tuple[datetime, datetime]] = []

    @property
    def started(self) -> bool:
        return self._process is not None

    @property
    def running(self) -> bool:
        """Whether it is started and not suspended."""
        return self._since is not None

    @property
    def worked(self) -> timedelta:
        """Time that it has run, without that in which it was suspended."""
        now = 0.0 if self._since is None else time.monotonic() - self._since
        return timedelta(seconds=self._before_s + now)

    @property
    def spans(self) -> list[tuple[datetime, datetime]]:
        """Start and end, UTC, of the times in which it ran, in order."""
        return [span for span in self._spans if span[0] < span[1]]

    def run(self) -> None:
        """Start it, or continue it; does nothing while it runs."""
        if self.running:
            return
        if self._process is None:
            # The command is the caller's own.
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", _LAUNCHER, *self._command], start_new_session=True
            )
        else:
            self._change(signal.SIGCONT, self._on_resume)
        self._go_on()

    def suspend(self) -> None:
        """Suspend it; does nothing while it is not running."""
        if self._since is None:
            return
        self._pause()
        self._change(signal.SIGSTOP, self._on_suspend)

    def forward(self, number: int) -> None:
        """Pass a signal on to all its processes; a suspended one is continued, for it could not obey."""
        self._signal(number)
        if self._since is None:
            self._change(signal.SIGCONT, self._on_resume)
            self._go_on()

    def wait(self, timeout_s: float) -> int | None:
        """Return the exit code once it has ended, 128 and more for a signal; None after *timeout_s*."""
        if self._process is None:
            time.sleep(timeout_s)
            return None
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None
        self._pause()
        return code if code >= 0 else 128 - code

    def _go_on(self) -> None:
        self._since = time.monotonic()

    def _pause(self) -> None:
        """Take down the time that it ran."""
        if self._since is None:
            return
        ran, self._since = time.monotonic() - self._since, None
        self._before_s += ran
        now = datetime.now(UTC)
        begun = now - timedelta(seconds=ran)
        # The wall clock may have been set meanwhile: spans stay in order.
        self._spans.append((max([begun, *(end for _, end in self._spans[-1:])]), now))

    def _change(self, number: int, hook: str) -> None:
        if not hook:
            self._signal(number)
            return
        assert self._process is not None  # noqa: S101  # only what was started is suspended
        environment = {**os.environ, "AEGIS_PID": str(self._process.pid)}  # noqa: TID251  # the hook's own
        # The hook is the caller's own shell command.
        subprocess.run(hook, shell=True, env=environment, timeout=_TIMEOUT_OF_A_HOOK_S, check=False)  # noqa: S602

    def _signal(self, number: int) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
