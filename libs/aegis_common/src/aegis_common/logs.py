"""Logs of one process: JSON lines on stderr, with trace ids, without secrets."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping
from typing import IO, Any, Final

import structlog
from opentelemetry import trace
from structlog.typing import EventDict, Processor, WrappedLogger

from aegis_common.errors import AegisError

_SECRET: Final = re.compile(
    r"(.*[-_.])?(authorization|token|password|passwd|secret|api[-_]?key|apikey|cookie|private[-_]key)",
    re.IGNORECASE,
)
_BEARER: Final = re.compile(r"\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)
_MAX_DEPTH: Final = 6


class _Handler(logging.StreamHandler[IO[str]]):
    """The handler of `setup_logging`; a class of its own, so that a second call finds the first one's."""


def setup_logging(service: str, level: str = "INFO", *, stream: IO[str] | None = None) -> None:
    """Send structlog and stdlib logging to one stream as JSON lines; may be called again.

    Each line has `time` (UTC, ISO 8601), `level`, `service`, `event`, and where known `trace_id`, `span_id`
    and `tenant` (when bound by `structlog.contextvars.bind_contextvars`). An `AegisError` is logged as reason
    and message, any other exception with its traceback.

    Args:
        service: Name of the service, for example `carbon`.
        level: `DEBUG`, `INFO`, `WARNING` or `ERROR`.
        stream: Where to; stderr if omitted.
    """
    shared = _shared(service)
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *shared],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.JSONRenderer(default=repr, ensure_ascii=False),
        ],
    )
    handler = _Handler(stream or sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old, _Handler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    # One line a request, and some of these poll every second.
    logging.getLogger("httpx").setLevel(max(logging.WARNING, root.level))
    logging.captureWarnings(capture=True)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def _shared(service: str) -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        _service(service),
        add_trace,
        explain_error,
        structlog.processors.format_exc_info,
        drop_secrets,
    ]


def _service(service: str) -> Processor:
    def add(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        event["service"] = service
        return event

    return add


def add_trace(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Add the ids of the current span."""
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        event.setdefault("trace_id", f"{context.trace_id:032x}")
        event.setdefault("span_id", f"{context.span_id:016x}")
    return event


def explain_error(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Put an `AegisError` as reason and message in the place of its traceback."""
    found = event.get("exc_info")
    error = sys.exc_info()[1] if found is True else found[1] if isinstance(found, tuple) else found
    if isinstance(error, AegisError):
        del event["exc_info"]
        event.update(error_reason=error.reason, error_message=error.message)
        cause = error.__cause__
        if cause is not None:
            event["error_cause"] = f"{type(cause).__name__}: {str(cause).partition(chr(10))[0]}"
    return event


def drop_secrets(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Remove values whose key names a secret, at any depth, and mask credentials within texts."""
    return {key: _clean(value, _MAX_DEPTH) for key, value in event.items() if not _SECRET.fullmatch(key)}


def _clean(value: Any, depth: int) -> Any:
    if isinstance(value, str):
        return _BEARER.sub(r"\1 [removed]", value)
    if depth == 0:
        return value if isinstance(value, int | float | None) else "[too deep]"
    if isinstance(value, Mapping):
        return {
            str(key): _clean(item, depth - 1)
            for key, item in value.items()
            if not _SECRET.fullmatch(str(key))
        }
    if isinstance(value, list | tuple):
        return [_clean(item, depth - 1) for item in value]
    return value
