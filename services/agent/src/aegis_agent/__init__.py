"""The agent: runs tools, each in bounds that hold, and serves models as tools.

    from aegis_agent import AgentManager

Names are imported when they are first used, so that importing this package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from aegis_agent.adapters.functions import ToolOptions, tool
    from aegis_agent.adapters.schemas import ToolInputError
    from aegis_agent.adapters.workers.setup import WorkerLimits
    from aegis_agent.domain.parts import Part
    from aegis_agent.manager import AgentManager

_HOMES: Final = {
    "AgentManager": "aegis_agent.manager",
    "Part": "aegis_agent.domain.parts",
    "ToolInputError": "aegis_agent.adapters.schemas",
    "ToolOptions": "aegis_agent.adapters.functions",
    "WorkerLimits": "aegis_agent.adapters.workers.setup",
    "tool": "aegis_agent.adapters.functions",
}

__all__ = ["AgentManager", "Part", "ToolInputError", "ToolOptions", "WorkerLimits", "tool"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
