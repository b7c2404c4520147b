"""Inside a child: turns what a tool raised into what the agent is told."""

from __future__ import annotations

import errno
import re
import traceback
from collections.abc import Iterator
from typing import Any, Final

from aegis_agent.adapters.children.limits import Meter
from aegis_agent.adapters.children.setup import WorkerLimits

_MESSAGE_LENGTH: Final = 500
_TRACE_LINES: Final = 20
_LINKS: Final = 20
_KINDS: Final = {"BadInput": "input", "ToolInputError": "input", "BadOutput": "output"}
_NO_MEMORY: Final = re.compile(
    r"bad_alloc|failed to allocate memory|insufficient memory|cannot allocate memory", re.IGNORECASE
)
_NO_THREAD: Final = "can't start new thread"
_HINT: Final = (
    "; a tool may start processes only with WorkerLimits(may_fork=True), and use the network only with "
    "WorkerLimits(network=True)"
)


def fault_of(error: BaseException, limits: WorkerLimits, meter: Meter, *, confined: bool) -> dict[str, Any]:
    """Describe *error*: which limit it met, else the tool's own failure."""
    chain = list(_chain(error))
    kind = _KINDS.get(type(error).__name__, "error")
    about: dict[str, Any] = {}
    if kind == "error":
        if limits.memory_bytes is not None and any(_is_no_memory(link, meter) for link in chain):
            kind, about = "memory", {"measured": meter.added_bytes()}
        elif limits.open_files is not None and _has(chain, errno.EMFILE):
            # all that it may have were open then; the error may have closed some on its way here
            kind, about = "files", {"measured": limits.open_files}
        elif limits.file_bytes is not None and _has(chain, errno.EFBIG):
            kind, about = "file_size", {"measured": limits.file_bytes}
    hint = _HINT if confined and kind == "error" and _has(chain, errno.EPERM) else ""
    violations = [[v.path, v.rule, v.message] for v in getattr(error, "violations", [])]
    return {
        "kind": kind,
        "type": type(error).__name__,
        "message": str(error)[:_MESSAGE_LENGTH] + hint,
        "rule": str(getattr(error, "rule", "")),
        "violations": violations,
        "trace": "".join(traceback.format_tb(error.__traceback__)[-_TRACE_LINES:]),
        **about,
    }


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what led to it."""
    step: BaseException | None = error
    for _ in range(_LINKS):
        if step is None:
            return
        yield step
        step = step.__cause__ or (None if step.__suppress_context__ else step.__context__)


def _has(chain: list[BaseException], number: int) -> bool:
    return any(isinstance(error, OSError) and error.errno == number for error in chain)


def _is_no_memory(error: BaseException, meter: Meter) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, RuntimeError) and str(error) == _NO_THREAD:
        return meter.memory_is_short()
    # compiled libraries have errors of their own for it
    compiled = isinstance(error, RuntimeError) or type(error).__module__ != "builtins"
    return isinstance(error, MemoryError) or (
        compiled and bool(_NO_MEMORY.search(str(error)[:_MESSAGE_LENGTH]))
    )
