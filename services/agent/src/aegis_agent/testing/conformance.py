"""The tools that the official MCP conformance suite expects, as ordinary tools of an agent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Annotated, Any, Final

from pydantic import Field

from aegis_agent import AgentManager, Audio, Blob, Image, ToolOptions, tool
from aegis_agent.adapters.functions import function_tool
from aegis_agent.adapters.validation import SchemaChecks
from aegis_agent.context import AsyncContext
from aegis_agent.domain.errors import AgentInternal
from aegis_agent.testing.mcp_tools import PNG, wav


async def test_simple_text() -> str:
    """Return text."""
    return "This is a simple text response for testing."


async def test_image_content() -> Image:
    """Return an image."""
    return Image(PNG)


async def test_audio_content() -> Audio:
    """Return sound."""
    return Audio(wav())


async def test_embedded_resource() -> Blob:
    """Return a resource."""
    return Blob(b"This is an embedded resource content.", "text/plain", "embedded.txt")


async def test_multiple_content_types() -> list[str | Image | Blob]:
    """Return text, an image and a resource."""
    data = json.dumps({"test": "data", "value": 123}).encode()
    return ["Multiple content types test:", Image(PNG), Blob(data, "application/json", "mixed.json")]


async def test_tool_with_progress(context: AsyncContext) -> str:
    """Report progress three times."""
    for done in (0, 50, 100):
        await context.progress(done, 100, f"Completed step {done} of 100")
        await asyncio.sleep(0.05)
    return "done"


async def test_tool_with_logging(context: AsyncContext) -> str:
    """Log three times."""
    for text in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        context.log.info(text)
        await asyncio.sleep(0.05)
    return "done"


async def test_error_handling() -> str:
    """Fail."""
    raise RuntimeError("This tool intentionally returns an error for testing")


async def test_header_argument(
    region: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Region"})],
) -> str:
    """Take an argument that stands in a header as well."""
    return region


async def greet(name: str) -> str:
    """Greet somebody."""
    return f"Hello, {name}!"


@tool(tags=("task",), max_timeout=timedelta(minutes=2), default_timeout=timedelta(minutes=2), concurrency=8)
async def slow_compute(seconds: float, label: str) -> str:
    """Take a while."""
    await asyncio.sleep(seconds)
    return f"{label} done"


@tool(tags=("task",))
async def failing_job() -> str:
    """Fail after a while."""
    await asyncio.sleep(1)
    raise RuntimeError("This job intentionally fails")


@tool(tags=("task",))
async def protocol_error_job() -> str:
    """End as if the agent itself had failed."""
    raise AgentInternal("the job could not be run", tool="protocol_error_job")


SCHEMA: Final[dict[str, Any]] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}


async def _anything() -> str:
    """Take arguments whose schema uses what no type hint can say."""
    return "done"


def add_schema_tool(manager: AgentManager) -> None:
    """Add the one fixture whose schema no type hint can say."""
    made = function_tool("json_schema_2020_12_tool", _anything, ToolOptions(), manager.fork_server)
    spec = replace(made.spec, input_schema=SCHEMA)
    manager.registry.add(replace(made, spec=spec, checks=SchemaChecks(spec)))


TOOLS: Final[dict[str, Callable[..., Any]]] = {
    function.__name__: function
    for function in (
        test_simple_text,
        test_image_content,
        test_audio_content,
        test_embedded_resource,
        test_multiple_content_types,
        test_tool_with_progress,
        test_tool_with_logging,
        test_error_handling,
        test_header_argument,
        greet,
        slow_compute,
        failing_job,
        protocol_error_job,
    )
} | {"test_logging_tool": test_tool_with_logging}
