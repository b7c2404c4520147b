"""Becomes the given program after asking the kernel to kill it when the supervisor dies.

Run as a script with `-I -S`: `launch.py PARENT_PID PROGRAM [ARG...]`. A pre-exec hook in the supervisor would
do the same, but between fork and exec of a process that has gRPC threads.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
EXIT_CANNOT_START = 127


def main() -> None:
    parent, argv = int(sys.argv[1]), sys.argv[2:]
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # the supervisor died before the request took effect
        raise SystemExit(EXIT_CANNOT_START)
    try:
        os.execv(argv[0], argv)  # noqa: S606  # it must be this very process
    except OSError as error:
        sys.stderr.write(f"cannot start {argv[0]}: {error.strerror}\n")
        raise SystemExit(EXIT_CANNOT_START) from error


if __name__ == "__main__":
    main()
