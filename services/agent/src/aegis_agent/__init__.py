"""The agent: runs tools, each in bounds that hold, and serves models as tools.

    from aegis_agent import AgentManager

Names are imported when they are first used, so that importing this package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from aegis_agent.adapters.children.setup import WorkerLimits
    from aegis_agent.adapters.functions import ToolOptions, tool
    from aegis_agent.adapters.schemas import ToolInputError
    from aegis_agent.content import Artifact, Audio, Blob, Image, Video
    from aegis_agent.context import AsyncContext, Context
    from aegis_agent.domain.call import Priority
    from aegis_agent.domain.parts import ArtifactRef, Part
    from aegis_agent.manager import AgentManager

_HOMES: Final = {
    "AgentManager": "aegis_agent.manager",
    "Artifact": "aegis_agent.content",
    "ArtifactRef": "aegis_agent.domain.parts",
    "AsyncContext": "aegis_agent.context",
    "Audio": "aegis_agent.content",
    "Blob": "aegis_agent.content",
    "Context": "aegis_agent.context",
    "Image": "aegis_agent.content",
    "Part": "aegis_agent.domain.parts",
    "Priority": "aegis_agent.domain.call",
    "ToolInputError": "aegis_agent.adapters.schemas",
    "ToolOptions": "aegis_agent.adapters.functions",
    "Video": "aegis_agent.content",
    "WorkerLimits": "aegis_agent.adapters.children.setup",
    "tool": "aegis_agent.adapters.functions",
}

__all__ = [
    "AgentManager",
    "Artifact",
    "ArtifactRef",
    "AsyncContext",
    "Audio",
    "Blob",
    "Context",
    "Image",
    "Part",
    "Priority",
    "ToolInputError",
    "ToolOptions",
    "Video",
    "WorkerLimits",
    "tool",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
