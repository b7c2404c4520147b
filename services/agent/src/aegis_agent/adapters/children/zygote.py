"""The zygote: a small process that has imported what tools need, and forks children that run them.

It runs no tool itself and has one thread, so that a fork is safe. It takes commands from the agent on one
socket; when that closes, for whatever reason, it kills every child and ends. It keeps a dead child's process
id until the agent asks for its exit status, so that the agent can never signal a stranger.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import select
import signal
import socket
from pathlib import Path
from typing import Any, Final

COMMAND_BYTES: Final = 4096
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_SET_NAME: Final = 15
_STRAY_CHECK_MS: Final = 1000


def main(control: socket.socket, preload: list[str]) -> None:
    """Run the zygote until *control* closes; first import the modules *preload*."""
    name_process(b"aegis-zygote")
    for module in preload:
        with contextlib.suppress(ImportError):  # the child that needs it will say so
            importlib.import_module(module)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    gc.freeze()  # a child that never looks through these objects does not copy their pages
    Zygote(control).run()


class Zygote:
    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._children: set[int] = set()
        self._wanted: set[int] = set()
        self._wake, self._woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def run(self) -> None:
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        while True:
            # a stray can arrive without a signal: from a child that has undone its own duty as a reaper
            ready = dict(poll.poll(_STRAY_CHECK_MS if self._children else None))
            if self._wake in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake, 512)
                self._tell_stopped()
                self._reap()
            elif not ready:
                self._kill_orphans()
            if self._control.fileno() in ready and not self._command():
                self._kill_all()
                return

    def _command(self) -> bool:
        try:
            data, descriptors, _, _ = socket.recv_fds(self._control, COMMAND_BYTES, 1)
        except OSError:
            return False
        if not data:
            return False
        command: dict[str, Any] = json.loads(data)
        if "spawn" in command:
            self._spawn(command["spawn"], descriptors[0])
        else:
            self._wanted.add(command["reap"])
            self._reap()
        return True

    def _spawn(self, token: int, descriptor: int) -> None:
        zygote = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            os.close(descriptor)
            self._tell({"token": token, "error": error.strerror})
            return
        if pid == 0:
            self._become_child(descriptor, zygote)
        os.close(descriptor)
        self._children.add(pid)
        self._tell({"token": token, "pid": pid})

    def _become_child(self, descriptor: int, zygote: int) -> None:
        status = 70
        try:
            name_process(b"aegis-tool")
            os.setsid()  # own process group: killing it takes what the tool started, too
            _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() == zygote:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                self._control.close()
                os.close(self._wake)
                os.close(self._woken)
                from aegis_agent.adapters.children.child import serve  # noqa: PLC0415  # imported in the fork only

                status = serve(socket.socket(fileno=descriptor))
        finally:
            os._exit(status)

    def _tell_stopped(self) -> None:
        """Tell which children were stopped, for example by SIGSTOP; nobody would ever continue them."""
        with contextlib.suppress(ChildProcessError):
            while found := os.waitid(os.P_ALL, 0, os.WSTOPPED | os.WNOHANG):
                self._tell({"stopped": found.si_pid, "signal": found.si_status})

    def _reap(self) -> None:
        for pid in list(self._wanted):
            if pid not in self._children:
                self._wanted.discard(pid)
                self._tell({"reaped": pid, "status": None})  # it was another zygote's
                continue
            found, status, usage = os.wait4(pid, os.WNOHANG)
            if found:
                self._wanted.discard(pid)
                self._children.discard(pid)
                told = {"status": os.waitstatus_to_exitcode(status), "rss": usage.ru_maxrss << 10}
                self._tell({"reaped": pid, **told, "cpu_s": usage.ru_utime + usage.ru_stime})
        self._kill_orphans()

    def _kill_orphans(self) -> None:
        """End what tools left behind outside their process group: as their reaper, it is now ours."""
        for pid in _children_of(os.getpid()) - self._children:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, os.WNOHANG)

    def _kill_all(self) -> None:
        for pid in self._children:
            with contextlib.suppress(OSError):
                os.killpg(pid, signal.SIGKILL)
        for pid in self._children:
            with contextlib.suppress(OSError):
                os.waitpid(pid, 0)
        self._children.clear()
        while strays := _children_of(os.getpid()):
            for pid in strays:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)

    def _tell(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # the agent is gone; the next read says so
            self._control.send(json.dumps(message).encode())


def _children_of(pid: int) -> set[int]:
    try:
        return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}
    except OSError:
        return set()


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def name_process(name: bytes) -> None:
    """Set the name that `ps` and `top` show; at most 15 bytes."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_NAME, ctypes.c_char_p(name), 0, 0, 0)
