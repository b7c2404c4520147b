"""From an error to what a person or a script sees: what, which value, how to mend it, and the exit code."""

from __future__ import annotations

import json
import traceback
from typing import Any, Final

import typer

from aegis_client.cli.state import CliState, Format
from aegis_client.errors import AegisApiError, ProfileError, UsageError
from aegis_client.profiles import read_profiles
from aegis_common.errors import AegisError, ConfigurationError

FAILED: Final = 1
USAGE: Final = 2
REFUSED: Final = 3
UNAVAILABLE: Final = 4
TIMED_OUT: Final = 124
INTERRUPTED: Final = 130

_CODES: Final = {
    "UNAUTHENTICATED": REFUSED,
    "PERMISSION_DENIED": REFUSED,
    "UNAVAILABLE": UNAVAILABLE,
    "DEADLINE_EXCEEDED": TIMED_OUT,
}
_BY_REASON: Final = {
    "UNKNOWN_TOOL": "aegis tools list",
    "UNKNOWN_ZONE": "aegis carbon zones",
    "UNKNOWN_PLACE": "name it as in: aegis carbon resolve --region aws/eu-central-1, or --country DE",
    "UNKNOWN_MODEL": "aegis models list",
    "UNKNOWN_MODEL_VERSION": "aegis models versions MODEL",
    "UNKNOWN_ALIAS": "aegis models describe MODEL",
    "UNKNOWN_PUBLISHER_KEY": "aegis models keys list",
    "PUBLISHER_KEY_REVOKED": "move its file away and enroll again, which makes a new one; or --key FILE",
    "MODEL_VERSION_IN_USE": "aegis models rm MODEL --alias ALIAS, or promote another version",
    "MODEL_VERSION_DELETED": "push it under another id: --version ID",
    "UNKNOWN_ARTIFACT": "aegis artifacts ls",
    "UNKNOWN_JOB": "aegis jobs list",
    "UNKNOWN_TRAINING_RUN": "aegis fl list",
    "UNKNOWN_NODE": "aegis fl nodes",
    "TOOL_TIMEOUT": "allow more time: --timeout DURATION",
}
_LONGEST_CALL_S: Final = 600
"""Longest time of a call that is no job."""
_AS_JOB: Final = "run it as a job, which may take longer: aegis jobs create TOOL ..."
_BY_CODE: Final = {
    "UNAUTHENTICATED": "check the profile's certificate, or get a new token: aegis token",
    "PERMISSION_DENIED": "call with another profile: aegis --profile NAME ...",
    "UNAVAILABLE": "is the stack running? aegis status; start it: aegis up",
}


def exit_code(error: Exception) -> int:
    """Return the exit code that stands for an error."""
    if isinstance(error, AegisApiError):
        return _CODES.get(error.code, FAILED)
    if isinstance(error, UsageError | ProfileError | ConfigurationError):
        return USAGE
    return _CODES.get(error.kind.name, FAILED) if isinstance(error, AegisError) else FAILED


def show(error: Exception, state: CliState) -> None:
    """Print an error on stderr: in lines, or with `-o json` as one JSON object."""
    facts = {name: value for name, value in _facts(error, state).items() if value}
    if state.format is Format.JSON:
        typer.echo(json.dumps({"error": facts}, ensure_ascii=False), err=True)
        return
    message = facts.pop("message")
    typer.echo(f"aegis: {message}", err=True)
    facts.pop("metadata", None)  # the message has all its values
    for name, value in facts.items():
        lines = [value]
        if isinstance(value, dict):
            lines = [f"{key}: {text}" for key, text in value.items() if text not in message]
        for line in lines:
            typer.echo(f"  {name:<13} {line}", err=True)


def _facts(error: Exception, state: CliState) -> dict[str, Any]:
    facts: dict[str, Any] = {"message": _message(error)}
    if isinstance(error, AegisApiError):
        facts |= {
            "code": error.code,
            "reason": error.reason,
            "metadata": error.metadata,
            "violations": error.violations,
            "retry_after_s": error.retry_after.total_seconds() if error.retry_after else None,
            "server": f"{state.profile.address}{state.profile.place}" if state.profile else "",
            "trace_id": error.trace_id,
            "try": _advice(error, state),
        }
    elif isinstance(error, AegisError):
        facts |= {
            "reason": error.reason,
            "metadata": error.metadata,
            "violations": error.violations,
            "try": _by_code(error.kind.name, state),
        }
    return facts


def _advice(error: AegisApiError, state: CliState) -> str:
    told = error.metadata
    if error.reason == "TOOL_TIMEOUT" and "max_timeout_s" in told:
        longest = float(told["max_timeout_s"])
        if float(told["timeout_s"]) >= min(longest, _LONGEST_CALL_S):
            return _AS_JOB if longest > _LONGEST_CALL_S else ""
    return _BY_REASON.get(error.reason) or _by_code(error.code, state)


def _by_code(code: str, state: CliState) -> str:
    hint, used = _BY_CODE.get(code, ""), state.profile
    if code == "PERMISSION_DENIED" and used is not None and used.source is not None:
        others = ", ".join(sorted(read_profiles(used.source)[0].keys() - {used.name}))
        return f"{hint}; there are {others}" if others else hint
    return hint


def _message(error: Exception) -> str:
    known = getattr(error, "message", None)
    if isinstance(known, str):
        return known
    place = traceback.extract_tb(error.__traceback__)[-1:]
    where = f", at {place[0].filename}:{place[0].lineno}" if place else ""
    return f"unexpected {type(error).__name__}: {error}{where}; please report it with `aegis version`"
