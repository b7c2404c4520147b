"""A client process: runs an app's client part for one virtual node after the other."""

from __future__ import annotations

import ctypes
import hashlib
import os
import random
import signal
import struct
import sys
import time
import traceback
from pathlib import Path
from typing import Any, Final

import numpy as np
from flwr.app import Error, Message

from aegis_fl_coordinator.inprocess.flower import (
    BrokenApp,
    context_bytes,
    load_app,
    message_bytes,
    read_context,
    read_message,
)
from aegis_fl_coordinator.inprocess.frames import Closed, read_frame, write_frame

APP_FAILED: Final = 2
"""Flower's code of an error in the client part of an app."""
CPU: Final = struct.Struct(">d")
"""The last part of an answer: CPU seconds since the answer before."""
_REASON_CHARS: Final = 300
_PR_SET_PDEATHSIG: Final = 1


def main() -> None:
    """Serve an app until stdin is closed. Arguments: its folder, and the engine's process id."""
    die_with_parent(int(sys.argv[2]))
    # What the app prints must not get between the frames.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    folder = Path(sys.argv[1])
    used = 0.0
    try:
        while True:
            seed, message, context = read_frame(sys.stdin.buffer)
            answer = _answer(folder, seed, message, context)
            used, counted = time.process_time(), used
            write_frame(answers, *answer, CPU.pack(used - counted))
    except Closed:
        return


def die_with_parent(parent: int) -> None:
    """Have this process killed when the thread that started it ends; Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the engine is gone")


def _answer(folder: Path, seed: bytes, content: bytes, context: bytes) -> tuple[bytes, bytes]:
    """Return the reply and the node's context after it; an error leaves the context as it was."""
    message = read_message(content)
    try:
        app = load_app(folder, "clientapp")
        if seed:
            _seed(seed)
        known = read_context(context)
        return message_bytes(app(message, known)), context_bytes(known)
    except BrokenApp as error:
        reason = str(error)
    except Exception as error:
        traceback.print_exc()
        reason = repr(error)
    # SystemExit of an app ends this process; the engine sees that and starts another.
    reply = Message(Error(code=APP_FAILED, reason=reason[:_REASON_CHARS]), reply_to=message)
    return message_bytes(reply), context


def _seed(seed: bytes) -> None:
    """Seed the global generators, so that a reply does not depend on which process gives it."""
    number = int.from_bytes(hashlib.sha256(seed).digest()[:4])
    random.seed(number)
    np.random.seed(number)
    # Only an app imports torch; one that has not yet draws nothing from it.
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(number)


if __name__ == "__main__":
    main()
