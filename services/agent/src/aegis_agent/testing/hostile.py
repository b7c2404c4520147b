"""Tools that go beyond their limits, each in one way; children import this module by its name."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from aegis_agent.context import Context

_kept: list[object] = []


def fill_memory() -> int:
    """Use up all memory in small pieces and keep them."""
    while True:
        _kept.append(bytearray(1 << 16))


def big_array(mebibytes: int) -> int:
    return int(np.ones((mebibytes, 1 << 20), dtype=np.uint8).nbytes)


def touch_and_crash(mebibytes: int) -> int:
    """Die as a library does that does not check what malloc returns."""
    _kept.append(b"x" * (mebibytes << 20))
    os.kill(os.getpid(), signal.SIGSEGV)
    return 1


def caught_memory_error() -> str:
    """Run into the limit, and make do."""
    try:
        bytearray(8 << 30)
    except MemoryError:
        return "managed"
    return "had room"


def take(data: bytes) -> int:
    return len(data)


def spin_ignoring() -> int:
    """Spin, deaf to every signal that can be ignored."""
    for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)
    while True:
        pass


def spin_in_threads(count: int) -> int:
    """Use several processors, outside the interpreter's lock."""
    data = bytes(1 << 20)
    for _ in range(count):
        threading.Thread(target=lambda: [_digest(data) for _ in iter(int, 1)], daemon=True).start()
    while True:
        time.sleep(60)


def _digest(data: bytes) -> bytes:
    import hashlib  # noqa: PLC0415

    return hashlib.sha256(data).digest()


def stop() -> int:
    os.kill(os.getpid(), signal.SIGSTOP)
    return 1


def abort() -> int:
    os.abort()


def become(program: str) -> int:
    os.execv(program, [program, "600"])  # noqa: S606  # no shell is the point


def run_program() -> str:
    return subprocess.run(["/bin/echo", "ran"], capture_output=True, text=True, check=True).stdout.strip()


def fork() -> int:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return 1


def run_thread() -> str:
    found: list[str] = []
    thread = threading.Thread(target=found.append, args=("ran",))
    thread.start()
    thread.join()
    return found[0]


def signal_parent() -> int:
    os.kill(os.getppid(), 0)
    return os.getppid()


def connect(port: int) -> str:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        return connection.recv(16).decode()


def local_socket(path: str) -> int:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
    return 1


def leave_process(pid_file: str, how: str) -> int:
    """Answer, and leave a process running: `group`, `session`, or `orphan`, whose parent has ended."""
    code = "import time; time.sleep(600)"
    if how == "orphan":
        middle = (
            "import subprocess, sys; quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL); "
            f"p = subprocess.Popen([sys.executable, '-c', {code!r}], start_new_session=True, **quiet); "
            "print(p.pid)"
        )
        done = subprocess.run([sys.executable, "-c", middle], capture_output=True, text=True, check=True)
        pid = int(done.stdout)
    else:
        pid = subprocess.Popen([sys.executable, "-c", code], start_new_session=how == "session").pid
    Path(pid_file).write_text(str(pid))
    return 1


def leave_orphan_unseen(pid_file: str) -> int:
    """Refuse to be the reaper of what is left behind."""
    ctypes.CDLL(None).prctl(36, 0, 0, 0, 0)
    return leave_process(pid_file, "orphan")


def start_helper() -> None:
    _kept.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]))


def helper_pid() -> int:
    helper = _kept[0]
    assert isinstance(helper, subprocess.Popen)  # noqa: S101  # started by the warm-up
    return helper.pid


def leave_thread() -> int:
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
    return os.getpid()


def leak_descriptors(count: int) -> int:
    _kept.append([os.dup(0) for _ in range(count)])
    return os.getpid()


def open_at_once(count: int) -> int:
    """Opens files that are closed again on the way out, also on that of an error."""
    with contextlib.ExitStack() as files:
        for _ in range(count):
            files.enter_context(Path("/dev/null").open("rb"))
    return count


def close_standard() -> int:
    os.close(1)
    return os.getpid()


def close_everything() -> int:
    os.closerange(0, 256)
    return 1


def speak_after(context: Context) -> int:
    """Speak from a thread when the call is long over."""

    def late() -> None:
        time.sleep(0.2)
        context.progress(9)

    threading.Thread(target=late, daemon=True).start()
    return os.getpid()


def write_to_connection(text: str) -> int:
    """Write to whatever is a socket, among it the connection to the agent."""
    for number in range(3, 256):
        try:
            with socket.socket(fileno=os.dup(number)) as stolen:
                stolen.sendall(text.encode())
        except OSError:
            continue
    time.sleep(600)
    return 1


def endless_items(size: int) -> Iterator[str]:
    while True:
        yield "x" * size


def own_limits() -> list[int]:
    return [
        resource.getrlimit(resource.RLIMIT_CORE)[1],
        Path("/proc/self/status").read_text().count("NoNewPrivs:\t1"),
    ]


def die_idle() -> int:
    """Answer, and die a moment later."""
    threading.Timer(0.05, os._exit, (1,)).start()
    return os.getpid()


def environment() -> list[str]:
    """Return every environment that this process can see of itself and of what it comes from."""
    found = [f"{name}={text}" for name, text in os.environ.items()]  # noqa: TID251  # that is the test
    for pid in ("self", os.getppid()):
        found += Path(f"/proc/{pid}/environ").read_text(errors="replace").split("\0")
    return found


def needs_file() -> None:
    """Fail until a file is there that bears the number of this process' parent."""
    (Path(tempfile.gettempdir()) / f"aegis-test-{os.getppid()}").stat()


def mended() -> int:
    return 1


def doomed() -> None:
    """Let this process end a moment after its set-up."""
    threading.Timer(0.05, os._exit, (1,)).start()
