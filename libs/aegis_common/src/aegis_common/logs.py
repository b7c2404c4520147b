"""Logs of one process: JSON lines on stderr, with trace ids, without secrets."""

from __future__ import annotations

import json
import logging
import math
import re
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import IO, Any, Final

import structlog
from opentelemetry import trace
from structlog.typing import EventDict, WrappedLogger

from aegis_common.errors import AegisError

_SECRET: Final = re.compile(
    r"(.*[-_.])?(authorization|token|password|passwd|secret|api[-_]?key|apikey|cookie|private[-_]key)",
    re.IGNORECASE,
)
_BEARER: Final = re.compile(r"\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)
_SHORTEST: Final = len("Basic 12345678")
_MAX_DEPTH: Final = 6
_OWN: Final = frozenset(vars(logging.LogRecord("", 0, "", 0, "", (), None))) | {"message", "asctime"}
"""What each record of the standard library has by itself."""
_encode: Final = json.JSONEncoder(default=repr, ensure_ascii=False).encode


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
    # no line tells them, and each record would look them up
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = _Handler(stream or sys.stderr)
    handler.setFormatter(_Lines(service))
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
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


class _Lines(logging.Formatter):
    """Makes a JSON line of a record, whoever wrote it.

    structlog's own formatter takes a copy of the record and a dozen steps; there is a line for each call.
    """

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        event: Any = self._told(record)
        event["level"] = record.levelname.lower()
        event["logger"] = record.name
        event["time"] = _moment(record.created)
        event["service"] = self._service
        for step in _STEPS:
            event = step(None, "", event)
        return _encode(event)

    def _told(self, record: logging.LogRecord) -> dict[str, Any]:
        if hasattr(record, "_logger") and isinstance(record.msg, dict):  # of structlog
            return dict(record.msg)
        event = {name: value for name, value in vars(record).items() if name not in _OWN}
        event["event"] = record.getMessage()
        if record.exc_info:
            event["exc_info"] = record.exc_info
        if record.stack_info:
            event["stack_info"] = record.stack_info
        return event


def _moment(seconds: float) -> str:
    whole = int(seconds)
    return f"{_second(whole)}.{int((seconds - whole) * 1e6):06d}Z"


@lru_cache(maxsize=4)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


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
    return {key: _clean(value, _MAX_DEPTH) for key, value in event.items() if not _is_secret(key)}


@lru_cache(maxsize=1024)
def _is_secret(key: str) -> bool:
    return _SECRET.fullmatch(key) is not None


def _clean(value: Any, depth: int) -> Any:
    if isinstance(value, str):
        # most texts are one word, in which no credentials can be
        short = len(value) < _SHORTEST or len(value.split(None, 1)) < 2
        return value if short else _BEARER.sub(r"\1 [removed]", value)
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)  # JSON has no form for it
    if depth == 0:
        return value if isinstance(value, int | float | None) else "[too deep]"
    if isinstance(value, Mapping):
        return {str(key): _clean(item, depth - 1) for key, item in value.items() if not _is_secret(str(key))}
    if isinstance(value, list | tuple):
        return [_clean(item, depth - 1) for item in value]
    return value


_STEPS: Final[tuple[Callable[[WrappedLogger, str, EventDict], Any], ...]] = (
    structlog.contextvars.merge_contextvars,
    add_trace,
    explain_error,
    structlog.processors.format_exc_info,
    drop_secrets,
)
