"""The official MCP conformance suite, through the real gateway, against its fixtures as ordinary tools."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest
import uvicorn
import yaml
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from aegis_agent.testing import conformance
from aegis_common.testing.ports import free_port
from mcp_support import NODE, NODE_FOLDER, Stack, mcp_stack

SUITE = NODE_FOLDER / "node_modules/@modelcontextprotocol/conformance/dist/index.js"
EXPECTED = Path(__file__).with_name("mcp_expected_failures.yaml")
_RUN = re.compile(r"server-(.+)-\d{4}-\d\d-\d\dT[\d-]+Z")
_HOP_BY_HOP = frozenset({"connection", "transfer-encoding", "content-length", "keep-alive"})


@asynccontextmanager
async def signed_in(stack: Stack, port: int) -> AsyncIterator[str]:
    """Stand in for a host: plain HTTP on loopback to the gateway's TLS and token; the suite has none."""
    context = ssl.create_default_context(cafile=str(stack.mesh.ca.bundle))
    token = stack.mesh.token(roles=["operator"])
    async with httpx2.AsyncClient(verify=context, trust_env=False, timeout=60) as upstream:

        async def relay(request: Request) -> Response:
            headers = [(k, v.strip()) for k, v in request.headers.raw if k.decode() not in _HOP_BY_HOP]
            sent = upstream.build_request(
                request.method,
                stack.people + request.url.path,
                headers=[*headers, (b"authorization", f"Bearer {token}".encode())],
                content=await request.body(),
            )
            answer = await upstream.send(sent, stream=True)
            kept = {k: v for k, v in answer.headers.items() if k not in _HOP_BY_HOP}
            return StreamingResponse(
                answer.aiter_raw(), answer.status_code, kept, background=BackgroundTask(answer.aclose)
            )

        app = Starlette(routes=[Route("/mcp", relay, methods=["GET", "POST", "DELETE"])])
        server = uvicorn.Server(
            uvicorn.Config(app, port=port, log_level="warning", lifespan="off", ws="none")
        )
        serving = asyncio.ensure_future(server.serve())
        try:
            yield f"http://127.0.0.1:{port}/mcp"
        finally:
            server.should_exit = True
            await serving


def failures(results: Path) -> dict[str, set[str]]:
    """Return the scenarios that ran, and the checks of each that failed; warnings are no failures."""
    found: dict[str, set[str]] = {}
    for file in results.rglob("checks.json"):
        scenario = _RUN.fullmatch(file.parent.name)
        assert scenario, file
        checks = json.loads(file.read_text())
        failed = {check["id"] for check in checks if check["status"] == "FAILURE"}
        found.setdefault(scenario[1], set()).update(failed)
    return found


@pytest.mark.long
@pytest.mark.parametrize("revision", ["2026-07-28", "2025-11-25"])
async def test_the_conformance_suite_fails_only_where_we_say_why(tmp_path: Path, revision: str) -> None:
    if not SUITE.exists():
        pytest.fail(f"{SUITE} is missing: `make setup` installs it")
    port, results = free_port(), tmp_path / "results"
    origins = [f"http://127.0.0.1:{port}", f"http://localhost:{port}"]
    async with (
        mcp_stack(tmp_path, conformance.TOOLS, origins=origins) as stack,
        signed_in(stack, port) as url,
    ):
        conformance.add_schema_tool(stack.manager)
        arguments = ["server", "--url", url, "--requirements", revision, "--output-dir", str(results)]
        with (tmp_path / "log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                str(NODE), str(SUITE), *arguments, stdout=log, stderr=log
            )
            await process.wait()

    failed = failures(results)
    # The suite's own exit code leaves out the scenarios of extensions; here all of them count.
    entries = [entry.partition(":")[::2] for entry in yaml.safe_load(EXPECTED.read_text())["server"]]
    unexpected = {
        (scenario, check)
        for scenario, checks in failed.items()
        for check in checks
        if (scenario, "") not in entries and (scenario, check) not in entries
    }
    stale = {
        (scenario, check)
        for scenario, check in entries
        if scenario in failed and not (check in failed[scenario] if check else failed[scenario])
    }
    assert len(failed) > 20, (tmp_path / "log").read_text()[-5_000:]
    assert set() == unexpected
    assert set() == stale
