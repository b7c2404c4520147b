"""`echo`: gives back the text that it gets; for trying out a connection."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from aegis_agent.adapters.functions import tool


@tool(idempotent=True, concurrency=64, queue_size=256)
async def echo(text: Annotated[str, Field(description="Any text.", max_length=1 << 20)]) -> str:
    """Returns the text that it gets."""
    return text
