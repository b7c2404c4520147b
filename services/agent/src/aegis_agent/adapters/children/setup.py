"""What a child is told once, before its first call."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from aegis_agent.domain.errors import InvalidTool

MAIN_ALIAS: Final = "__aegis_main__"
"""Name under which a child runs the script that registered the tool."""


HUNG_UP: Final = 71
"""Exit status of a child that can speak to the agent no more."""

_MAY_BE_NONE: Final = ("memory_bytes", "cpu_s", "open_files", "file_bytes")
_LEAST: Final[dict[str, tuple[Any, float]]] = {
    "memory_bytes": (int, 1 << 20),
    "cpu_s": (int | float, 0.001),
    "open_files": (int, 16),
    "file_bytes": (int, 0),
    "output_bytes": (int, 1),
    "grace_s": (int | float, 0),
    "recycle_calls": (int, 1),
    "recycle_growth_bytes": (int, 1),
}
_process: Final = {"is_child": False}


def mark_child() -> None:
    """Remember that this process is a tool's child."""
    _process["is_child"] = True


def refuse_in_child() -> None:
    """Refuse to start children of a child.

    Raises:
        InvalidTool: This process is a tool's child; it has come here by importing the script.
    """
    if _process["is_child"]:
        raise InvalidTool(
            "a tool's child process imports the script that registered the tool: put what the script runs "
            'below `if __name__ == "__main__":`'
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLimits:
    """What one child may use. Where a limit is None, there is none.

    Attributes:
        memory_bytes: Address space that it may add to what it has after the fork; 1 MiB and up.
        cpu_s: CPU seconds per call, of all threads of the child together; 0.001 and up.
        open_files: Open files; 16 and up, for the child needs some itself.
        file_bytes: Size of a file that it writes; 0 and up.
        output_bytes: Size of one result, or of one item of a streaming tool; 1 and up.
        may_fork: It may start other processes, run other programs and signal processes. What a call leaves
            running is killed, and is that call's error; what the warm-up started may stay.
        network: It may reach the network.
        grace_s: Seconds from the cancelling of a call, which the tool's context shows, to the kill; at a
            deadline they count from its end backwards. 0 means that a call is just killed.
        recycle_calls: Calls after which it is replaced; 1 and up.
        recycle_growth_bytes: Growth of its resident memory after which it is replaced; 1 and up.
    """

    memory_bytes: int | None = 2 << 30
    cpu_s: float | None = 600
    open_files: int | None = 128
    file_bytes: int | None = 16 << 20
    output_bytes: int = 64 << 20
    may_fork: bool = False
    network: bool = False
    grace_s: float = 0
    recycle_calls: int = 1000
    recycle_growth_bytes: int = 512 << 20

    def __post_init__(self) -> None:
        """Refuse what no child could live with.

        Raises:
            InvalidTool: A limit is of another type, or too low.
        """
        for name, (kinds, least) in _LEAST.items():
            value = getattr(self, name)
            if value is None and name in _MAY_BE_NONE:
                continue
            if isinstance(value, bool) or not isinstance(value, kinds) or not value >= least:
                number = "whole number" if kinds is int else "number"
                what = f"a {number} from {least} up{', or None' if name in _MAY_BE_NONE else ''}"
                raise _wrong_limit(name, value, what)
        for name in ("may_fork", "network"):
            if not isinstance(getattr(self, name), bool):
                raise _wrong_limit(name, getattr(self, name), "True or False")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSetup:
    """What a child runs.

    Attributes:
        target: `module:qualname` of the function to call or, for a factory, of what makes the callable.
        script: Path of the script that `__main__` is, when the function stands there.
        factory: True when *target* takes *options* and returns an object to call with the arguments.
        options: JSON values and bytes for the factory.
        warm_up: `module:qualname` of a function without arguments that loads what calls need, or empty.
        search_path: Folders that modules are imported from.
    """

    target: str
    script: str = ""
    factory: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    warm_up: str = ""
    limits: WorkerLimits = WorkerLimits()
    search_path: tuple[str, ...] = ()

    def to_frame(self) -> dict[str, Any]:
        return {**asdict(self), "search_path": list(self.search_path or sys.path)}

    @classmethod
    def from_frame(cls, frame: dict[str, Any]) -> WorkerSetup:
        path = tuple(frame["search_path"])
        return cls(**{**frame, "limits": WorkerLimits(**frame["limits"]), "search_path": path})


def importable(function: Callable[..., Any]) -> tuple[str, str]:
    """Return the `module:qualname` by which a child imports *function*, and the script that holds it, if any.

    Raises:
        InvalidTool: It is a lambda, a closure, a method of an object, or was typed into an interpreter.
    """
    module = getattr(function, "__module__", None) or ""
    qualname = getattr(function, "__qualname__", "")
    found: Any = sys.modules.get(module)
    for step in qualname.split("."):
        found = getattr(found, step, None)
    if found is not function:
        raise _not_importable(function, "it is no function at the top of a module")
    if module != "__main__":
        return f"{module}:{qualname}", ""
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name:
        return f"{spec.name}:{qualname}", ""
    script = Path(getattr(main, "__file__", None) or "")
    if not script.is_file():
        raise _not_importable(function, "it was typed into an interpreter")
    return f"{MAIN_ALIAS}:{qualname}", str(script.resolve())


def _wrong_limit(name: str, value: object, wanted: str) -> InvalidTool:
    what = f"the limit {name} is {value!r:.80}; write {wanted}"
    return InvalidTool(what, limit=name, value=f"{value!r:.80}")


def _not_importable(function: Callable[..., Any], why: str) -> InvalidTool:
    name = getattr(function, "__qualname__", repr(function))
    return InvalidTool(
        f"function {name}: {why}; a sync tool runs in a child process, which imports it by name: put it at "
        "the top of a module, or make it `async def` if it only waits",
        function=name,
    )
