"""Flower's ServerApp process, which sees its own run's files and the coordinator's of no other kind.

Flower starts it by the name `flwr-serverapp`. As soon as it knows its run, and before it has a second thread
or a line of the app, it gives up all files but the interpreter's, the system's, its run's folder and its own
certificate.
"""

from __future__ import annotations

import importlib
import os
import select
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from flwr.superlink.cli.flwr_serverapp import flwr_serverapp

from aegis_fl_coordinator.flower import SERVERAPP_READ_VARIABLE
from aegis_fl_coordinator.runfile import RUN_KEY, RunFile, run_folder
from aegis_fl_coordinator.serverapp.landlock import NoLandlock, confine

_SYSTEM: Final = ("/usr", "/lib", "/lib64", "/bin", "/sbin", "/sys", "/run/systemd/resolve")
_ETC: Final = (
    *("hosts", "host.conf", "resolv.conf", "nsswitch.conf", "gai.conf", "services", "protocols"),
    *(
        "passwd",
        "group",
        "localtime",
        "timezone",
        "os-release",
        "mime.types",
        "ssl",
        "pki",
        "ca-certificates",
    ),
    *("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives", "OpenCL", "fonts"),
)
"""Not all of /etc: services keep keys there."""
_PROC: Final = ("self", "cpuinfo", "meminfo", "stat", "filesystems", "version", "sys")
"""Not all of /proc: the command lines of others show Flower's tokens."""
_HOME: Final = "home"


def confine_to(folder: Path) -> None:
    """Leave this process the files that the app of the run in *folder* may see.

    Raises:
        NoLandlock: The kernel cannot; nothing was taken.
    """
    home = folder / _HOME
    home.mkdir(exist_ok=True, mode=0o700)
    environment = os.environ  # noqa: TID251  # Flower's process has no Settings
    # Not the other runs' home: who writes there changes their code.
    environment.update(HOME=str(home), FLWR_HOME=str(home), TMPDIR=str(home))
    more = environment.get(SERVERAPP_READ_VARIABLE, "").split(os.pathsep)
    confine(
        read=[
            *(Path(path) for path in (*_SYSTEM, sys.prefix, sys.base_prefix, *filter(None, sys.path))),
            *(Path("/proc", name) for name in _PROC),
            *(Path("/etc", name) for name in _ETC),
            *(Path(path) for path in more if path),
            *_certificates(folder),
        ],
        write=[folder, Path("/dev")],
    )


def _certificates(folder: Path) -> list[Path]:
    coordinator = RunFile.read(folder).coordinator
    if coordinator is None:
        return []
    # Folders, for a certificate that is rotated is another file; the authority's may hold more than its own.
    return [Path(coordinator.cert).parent, Path(coordinator.key).parent, Path(coordinator.bundle)]


def install() -> None:
    """Have this process confine itself when Flower has told it its run.

    Raises:
        AttributeError: Flower is of another version and has no such place: nothing may run.
    """
    # The package has a function of the module's name.
    flower: Any = importlib.import_module("flwr.superlink.runtime.run_serverapp")
    read_run, beats = flower.run_from_proto, flower.HeartbeatSender
    flower.start_parent_process_monitor  # noqa: B018  # it has to be there
    later: list[Callable[[], None]] = []

    class Late(beats):  # type: ignore[misc,valid-type]  # a class that mypy cannot see
        def start(self) -> None:
            later.append(super().start)

    def watch(parent: int) -> None:
        # Flower's own sends the parent a signal, which a confined process may not.
        descriptor = os.pidfd_open(parent)
        later.append(threading.Thread(target=_end_with, args=(descriptor,), daemon=True).start)

    def told(message: Any) -> Any:
        run = read_run(message)
        if threading.active_count() > 1:
            raise RuntimeError("the process has threads already, which would not be confined")
        try:
            confine_to(run_folder(str(run.override_config.get(RUN_KEY, ""))))
        except NoLandlock as error:
            print(f"aegis: the app is not confined: {error}", file=sys.stderr)  # noqa: T201  # the run's own log
        for start in later:
            start()
        return run

    if sys.platform == "linux":
        flower.start_parent_process_monitor = watch
    flower.HeartbeatSender = Late
    flower.run_from_proto = told


def _end_with(parent: int) -> None:
    """End this process when the one of the pid descriptor *parent* has ended."""
    poll = select.poll()
    poll.register(parent, select.POLLIN)
    poll.poll()
    signal.raise_signal(signal.SIGINT)


def main() -> None:
    """Run what Flower calls `flwr-serverapp`."""
    install()
    flwr_serverapp()


if __name__ == "__main__":
    main()
