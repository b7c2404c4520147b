"""Waits for the end of the supervisor; when that was not orderly, kills what it left and removes its files.

Run as `python -m aegis_local.supervisor.guard STACK [PATH...]`; its input is a pipe from the supervisor.
The supervisor writes one byte before an orderly end; end of file without it means that it was killed.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path

from aegis_local.supervisor.processes import kill_stack


def main() -> None:
    stack, paths = sys.argv[1], [Path(name) for name in sys.argv[2:]]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it must outlive the supervisor
    if os.read(0, 1):
        return
    kill_stack(stack)
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
