"""Inside a child: set up once, then one call after the other until the agent hangs up."""

from __future__ import annotations

import importlib
import math
import os
import resource
import runpy
import signal
import socket
import sys
import traceback
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from aegis_agent.adapters.workers import frames
from aegis_agent.adapters.workers.setup import MAIN_ALIAS, WorkerLimits, WorkerSetup, mark_child

_MESSAGE_LENGTH: Final = 500
_TRACE_LINES: Final = 20
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")

Call = Callable[[dict[str, Any]], Any]


def serve(connection: socket.socket) -> None:
    """Serve calls on *connection* until it closes."""
    mark_child()
    os.dup2(2, 1)  # what a tool prints belongs in the log, not in the service's output
    setup = WorkerSetup.from_frame(_receive(connection))
    try:
        _limit(setup.limits)
        sys.path[:] = setup.search_path
        call, about = _prepare(setup)
        _limit_writes(setup.limits)  # after the set-up, in which libraries may unpack what they bring
    except BaseException as error:  # whatever the import raises is the answer
        _send(connection, {"fault": _fault(error)})
        return
    _send(connection, {"value": about})
    while True:
        try:
            arguments = _receive(connection)
        except EOFError:
            return
        _send_limited(connection, _answer(call, arguments, setup.limits), setup.limits.output_bytes)


def _prepare(setup: WorkerSetup) -> tuple[Call, Any]:
    target = _load(setup.target, setup.script)
    if setup.warm_up:
        _load(setup.warm_up, setup.script)()
    if setup.factory:
        made = target(**setup.options)
        return made, made.about
    from aegis_agent.adapters.schemas import FunctionSchema  # noqa: PLC0415  # a factory does without pydantic

    schema = FunctionSchema.of(target)

    def call(arguments: dict[str, Any]) -> Any:
        return schema.dump(target(**schema.bind(arguments)))

    return call, None


def _load(target: str, script: str) -> Any:
    module, _, qualname = target.partition(":")
    if module == MAIN_ALIAS and MAIN_ALIAS not in sys.modules:
        holder = types.ModuleType(MAIN_ALIAS)
        holder.__dict__.update(runpy.run_path(script, run_name=MAIN_ALIAS))
        sys.modules[MAIN_ALIAS] = holder
    found: Any = importlib.import_module(module)
    for step in qualname.split("."):
        found = getattr(found, step)
    return found


def _answer(call: Call, arguments: dict[str, Any], limits: WorkerLimits) -> dict[str, Any]:
    _limit_cpu(limits)
    try:
        return {"value": call(arguments), "rss": _resident_bytes()}
    except BaseException as error:  # the tool's own failure, MemoryError included, is an answer
        return {"fault": _fault(error), "rss": _resident_bytes()}


def _fault(error: BaseException) -> dict[str, Any]:
    kinds = {"BadInput": "input", "ToolInputError": "input", "BadOutput": "output"}
    violations = [[v.path, v.rule, v.message] for v in getattr(error, "violations", [])]
    return {
        "kind": kinds.get(type(error).__name__, "error"),
        "type": type(error).__name__,
        "message": str(error)[:_MESSAGE_LENGTH],
        "rule": str(getattr(error, "rule", "")),
        "violations": violations,
        "trace": "".join(traceback.format_tb(error.__traceback__)[-_TRACE_LINES:]),
    }


def _limit(limits: WorkerLimits) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    memory = None if limits.memory_bytes is None else _virtual_bytes() + limits.memory_bytes
    for what, value in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_NOFILE, limits.open_files),
    ):
        if value is not None:
            resource.setrlimit(what, (value, value))


def _limit_writes(limits: WorkerLimits) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # else a file beyond its limit kills instead of failing
    if limits.file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limits.file_bytes, limits.file_bytes))


def _limit_cpu(limits: WorkerLimits) -> None:
    if limits.cpu_s is None:
        return
    usage = resource.getrusage(resource.RUSAGE_SELF)
    soft = math.ceil(usage.ru_utime + usage.ru_stime) + limits.cpu_s
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard < 0 else min(soft, hard), hard))


def _virtual_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * _PAGE


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


def _send_limited(connection: socket.socket, answer: dict[str, Any], limit: int) -> None:
    try:
        frame = frames.encode(answer)
    except frames.FrameError as error:
        fault = {"kind": "output", "rule": "json", "message": f"the result has no JSON form: {error}"}
        frame = frames.encode({"fault": fault, "rss": answer["rss"]})
    if len(frame) > limit:
        frame = frames.encode({"fault": {"kind": "size", "size": len(frame)}, "rss": answer["rss"]})
    connection.sendall(frame)


def _send(connection: socket.socket, value: Any) -> None:
    connection.sendall(frames.encode(value))


def _receive(connection: socket.socket) -> Any:
    text_size, blob_size = frames.size_of(_exactly(connection, frames.HEADER.size))
    data = memoryview(_exactly(connection, text_size + blob_size))
    return frames.decode(data[:text_size], data[text_size:])


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = bytearray(size)
    view = memoryview(data)
    done = 0
    while done < size:
        count = connection.recv_into(view[done:])
        if not count:
            raise EOFError
        done += count
    return bytes(data)
