"""The same call by callers who may not make it."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any, Final

from aegis_client import AegisApiError
from aegis_local.demo.doors import knock_without_certificate, machines, people
from aegis_local.demo.report import Report
from aegis_local.runner import Stack

_PATH: Final = "/v1/tools/echo:dispatch"
_ALERT: Final = "CERTIFICATE_REQUIRED"
_BODY: Final[dict[str, Any]] = {"payload": [{"text": "hello"}]}


async def try_refused_calls(stack: Stack, report: Report) -> None:
    """Call without a certificate, with an expired token, and with the wrong role."""
    report.heading("The same call by callers who may not make it")
    async with people(stack) as client:
        answer = await client.post(_PATH, json=_BODY)
    report.check(
        "a valid token of an operator",
        answer.status_code == 200,
        expected="200",
        found=f"{answer.status_code}",
    )
    await _without_certificate(stack, report)
    expired = stack.issuer.mint(roles=["operator"], subject="demo", ttl=timedelta(minutes=-10))
    await _with_token(stack, report, "an expired token", expired, 401)
    viewer = stack.issuer.mint(roles=["viewer"], subject="demo")
    await _with_token(stack, report, "a token of a viewer", viewer, 403)
    await _with_viewer_certificate(stack, report)


async def _without_certificate(stack: Stack, report: Report) -> None:
    found = await asyncio.to_thread(knock_without_certificate, stack)
    report.check("no client certificate", _ALERT in found, expected=f"the TLS alert {_ALERT}", found=found)


async def _with_token(stack: Stack, report: Report, what: str, token: str, expected: int) -> None:
    async with people(stack, token) as client:
        answer = await client.post(_PATH, json=_BODY)
    found = f"{answer.status_code} {' '.join(answer.text.split())[:120]}"
    report.check(what, answer.status_code == expected, expected=str(expected), found=found)


async def _with_viewer_certificate(stack: Stack, report: Report) -> None:
    try:
        async with machines(stack, "viewer") as client:
            result = await client.tools.run("echo", {"text": "hello"})
    except AegisApiError as error:
        code, found = error.code, str(error)
    else:
        code, found = "OK", str(result.value)
    report.check(
        "a viewer's certificate, gRPC",
        code == "PERMISSION_DENIED",
        expected="PERMISSION_DENIED",
        found=f"{code}: {found}",
    )
