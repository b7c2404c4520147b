"""What the agent watches while a child works: CPU time, and the time of grace before a deadline."""

from __future__ import annotations

import asyncio
import os
from typing import Final, Self

from aegis_agent.adapters.children.setup import WorkerLimits
from aegis_agent.adapters.children.worker import Worker
from aegis_agent.domain.call import Call

_LEAST_S: Final = 0.01
_PROCESSORS: Final = os.cpu_count() or 1


class Watch:
    """Kills a child that uses too much CPU time, and tells a tool with a grace that its deadline is near.

    The kernel's own limit of CPU time counts whole seconds, and a tool can ignore its signal.
    """

    def __init__(self, worker: Worker, call: Call, limits: WorkerLimits) -> None:
        self._loop = asyncio.get_running_loop()
        self._worker = worker
        self._begin_s = 0.0
        self._cpu: asyncio.TimerHandle | None = None
        self._grace: asyncio.TimerHandle | None = None
        if limits.cpu_s is not None:
            self._begin_s = worker.cpu_s()
            self._look_again(limits.cpu_s, limits.cpu_s)
        if limits.grace_s:
            left = call.deadline - self._loop.time()
            self._grace = self._loop.call_later(left - min(limits.grace_s, left / 2), worker.terminate)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for timer in (self._cpu, self._grace):
            if timer is not None:
                timer.cancel()

    def _look_again(self, left_s: float, most_s: float) -> None:
        """Look when the child can have used up what is left, on all processors at once."""
        self._cpu = self._loop.call_later(max(left_s / _PROCESSORS, _LEAST_S), self._look, most_s)

    def _look(self, most_s: float) -> None:
        used_s = self._worker.cpu_s() - self._begin_s
        if used_s >= most_s:
            self._worker.kill_for_cpu(used_s)
        else:
            self._look_again(most_s - used_s, most_s)
