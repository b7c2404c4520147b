"""Inside a child: set up once, then one call after the other until the agent hangs up."""

from __future__ import annotations

import ctypes
import importlib
import os
import runpy
import signal
import socket
import sys
import types
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Final

from aegis_agent.adapters.children import frames
from aegis_agent.adapters.children.channel import Channel
from aegis_agent.adapters.children.child_context import ChildContext, ItemTooLarge
from aegis_agent.adapters.children.faults import fault_of
from aegis_agent.adapters.children.limits import Meter
from aegis_agent.adapters.children.sandbox import Confinement, confine
from aegis_agent.adapters.children.setup import HUNG_UP, MAIN_ALIAS, WorkerSetup, mark_child

_PR_SET_CHILD_SUBREAPER: Final = 36

Function = Callable[[dict[str, Any], ChildContext], Any]


def serve(connection: socket.socket) -> int:
    """Serve calls on *connection* until it closes; return the exit status."""
    mark_child()
    os.dup2(2, 1)  # what a tool prints belongs in the log, not in the service's output
    connection.set_inheritable(False)  # a program that takes the child's place must not hold it
    channel = Channel(connection)
    setup = WorkerSetup.from_frame(channel.receive())
    limits = setup.limits
    meter = Meter(limits)
    confinement = confine(may_fork=limits.may_fork, network=limits.network)
    if not confinement.processes:
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        meter.limit()
        sys.path[:] = setup.search_path
        function, about = _prepare(setup)
        meter.ready()
    except BaseException as error:  # whatever the import raises is the answer
        meter.use_reserve()
        channel.send(frames.encode({"fault": _described(error, setup, meter, confinement)}))
        return 0
    ready = {"value": about, "confinement": asdict(confinement), **meter.usage()}
    channel.send(frames.encode(ready))
    try:
        _Server(channel, setup, meter, confinement, function).run()
    except OSError:  # the tool has closed what it did not open, or the agent is gone
        return HUNG_UP
    return 0


class _Server:
    def __init__(
        self, channel: Channel, setup: WorkerSetup, meter: Meter, confinement: Confinement, function: Function
    ) -> None:
        self._channel = channel
        self._setup = setup
        self._meter = meter
        self._confinement = confinement
        self._function = function
        self._context: ChildContext | None = None
        signal.signal(signal.SIGTERM, self._cancel)

    def run(self) -> None:
        while True:
            try:
                request = self._channel.receive()
            except EOFError:
                return
            except MemoryError as error:  # the arguments alone are too much
                self._send({"fault": self._fault(error)})
            else:
                self._send(self._answer(request))

    def _cancel(self, *_: object) -> None:
        if self._context is not None:
            self._context.cancelled = True

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        self._meter.start_call()
        context = ChildContext(self._channel, request, output_bytes=self._setup.limits.output_bytes)
        self._context = context
        try:
            answer = {"value": self._function(request["arguments"], context)}
        except ItemTooLarge as error:
            answer = {"fault": {"kind": "size", "size": error.size}}
        except BaseException as error:  # the tool's own failure, MemoryError included, is an answer
            answer = {"fault": self._fault(error)}
        self._context = None
        context.close()
        if not self._confinement.processes and (names := self._meter.kill_descendants()):
            answer = {"fault": {"kind": "processes", "names": names}}
        return answer

    def _fault(self, error: BaseException) -> dict[str, Any]:
        return _described(error, self._setup, self._meter, self._confinement)

    def _send(self, answer: dict[str, Any]) -> None:
        usage = self._meter.usage()
        try:
            frame = frames.encode({**answer, **usage})
        except frames.FrameError as error:
            fault = {"kind": "output", "rule": "json", "message": f"the result has no JSON form: {error}"}
            frame = frames.encode({"fault": fault, **usage})
        except MemoryError as error:
            frame = frames.encode({"fault": self._fault(error), **usage})
        if len(frame) > self._setup.limits.output_bytes:
            frame = frames.encode({"fault": {"kind": "size", "size": len(frame)}, **usage})
        self._channel.send(frame)


def _described(
    error: BaseException, setup: WorkerSetup, meter: Meter, confinement: Confinement
) -> dict[str, Any]:
    meter.use_reserve()
    confined = confinement.processes or confinement.network
    return fault_of(error, setup.limits, meter, confined=confined)


def _prepare(setup: WorkerSetup) -> tuple[Function, Any]:
    target = _load(setup.target, setup.script)
    if setup.warm_up:
        _load(setup.warm_up, setup.script)()
    if setup.factory:
        made = target(**setup.options)
        return lambda arguments, _: made(arguments), made.about
    from aegis_agent.adapters.schemas import FunctionSchema  # noqa: PLC0415  # a factory does without pydantic

    schema = FunctionSchema.of(target)

    def call(arguments: dict[str, Any], context: ChildContext) -> Any:
        return schema.dump(target(**schema.bind(arguments, context)))

    def stream(arguments: dict[str, Any], context: ChildContext) -> None:
        for item in target(**schema.bind(arguments, context)):
            context.chunk(schema.dump_item(item))

    return (stream if schema.streams else call), None


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
