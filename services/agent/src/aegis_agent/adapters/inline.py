"""Runs `async def` tools in the agent's own loop."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Awaitable, Callable
from typing import Any, Final

from aegis_agent.adapters.schemas import BadInput, BadOutput, FunctionSchema, ToolInputError
from aegis_agent.adapters.workers import frames
from aegis_agent.domain.call import Call
from aegis_agent.domain.errors import (
    InvalidToolInput,
    InvalidToolOutput,
    ToolFailed,
    ToolOutputTooLarge,
    Violation,
)
from aegis_common.errors import AegisError

_MESSAGE_LENGTH: Final = 500
_log: Final = logging.getLogger(__name__)


class InlineRunner:
    """Calls a coroutine function; a `Runner` of the domain.

    Args:
        tool: Name of the tool, for messages.
        function: What to call; it is cancelled at the deadline.
        schema: Its type hints.
        output_bytes: Most bytes of a result.
    """

    def __init__(
        self, tool: str, function: Callable[..., Awaitable[Any]], schema: FunctionSchema, *, output_bytes: int
    ) -> None:
        self._tool = tool
        self._function = function
        self._schema = schema
        self._output_bytes = output_bytes

    async def run(self, call: Call) -> Any:
        try:
            value = self._schema.dump(await self._function(**self._schema.bind(call.arguments)))
            size = len(frames.encode(value))
        except (BadInput, ToolInputError) as error:
            raise InvalidToolInput.of(self._tool, error.violations) from error
        except (BadOutput, frames.FrameError) as error:
            rule = getattr(error, "rule", "json")
            raise InvalidToolOutput.of(self._tool, Violation("", rule, str(error))) from error
        except AegisError:
            raise
        except Exception as error:
            kind = type(error).__name__
            trace = "".join(traceback.format_tb(error.__traceback__))
            _log.warning("tool failed", extra={"tool": self._tool, "error": kind, "trace": trace})
            raise ToolFailed(
                f"tool {self._tool!r} failed: {kind}: {str(error)[:_MESSAGE_LENGTH]}",
                tool=self._tool,
                error=kind,
            ) from error
        if size > self._output_bytes:
            raise ToolOutputTooLarge.of(self._tool, size_bytes=size, max_bytes=self._output_bytes)
        return value

    async def close(self) -> None:
        """Nothing is held."""
