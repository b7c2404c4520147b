"""From 401 to a tool call: the official client finds a real issuer, registers, signs in and comes back."""

from __future__ import annotations

import asyncio
import html
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx2
import pytest
from mcp import Client
from mcp.client.auth import AuthorizationCodeResult, OAuthClientProvider, TokenStorage
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import OAuthClientInformationFull, OAuthClientMetadata, OAuthToken
from pydantic import AnyUrl

from aegis_agent.testing import mcp_tools
from aegis_common.settings import TokenSettings
from aegis_common.testing.pki import NAMESPACE, Mesh
from aegis_common.testing.ports import free_port
from mcp_support import NODE, NODE_FOLDER, mcp_stack

PROVIDER = NODE_FOLDER / "node_modules/oidc-provider/lib/index.js"
CALLBACK = "http://127.0.0.1:9/callback"
_FORM = re.compile(r'<form[^>]*action="([^"]+)"')
_HIDDEN = re.compile(r'<input type="hidden" name="([^"]+)" value="([^"]*)"')


class Memory(TokenStorage):
    """What a host would keep on its disk."""

    def __init__(self) -> None:
        self.tokens: OAuthToken | None = None
        self.registration: OAuthClientInformationFull | None = None

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self.registration

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self.registration = client_info


class Person:
    """Somebody with a browser, who signs in and agrees."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self.came_back = ""

    async def visit(self, url: str) -> None:
        async with httpx2.AsyncClient(verify=self._context, trust_env=False, timeout=30) as browser:
            answer = await browser.get(url)
            for _ in range(20):
                if answer.is_redirect:
                    url = urljoin(str(answer.url), answer.headers["location"])
                    if url.startswith(CALLBACK):
                        self.came_back = url
                        return
                    answer = await browser.get(url)
                    continue
                form = _FORM.search(answer.text)
                assert form, answer.text
                fields = dict(_HIDDEN.findall(answer.text))
                if 'name="login"' in answer.text:
                    fields |= {"login": "carol", "password": "any"}
                target = urljoin(str(answer.url), html.unescape(form[1]))
                answer = await browser.post(target, data=fields)
        raise AssertionError(f"the sign-in goes round in circles at {url}")

    async def result(self) -> AuthorizationCodeResult:
        query = parse_qs(urlsplit(self.came_back).query)
        return AuthorizationCodeResult(
            code=query["code"][0], state=query["state"][0], iss=query.get("iss", [None])[0]
        )


@asynccontextmanager
async def issuing(mesh: Mesh, port: int) -> AsyncIterator[str]:
    pair = mesh.ca.issue("issuer", namespace=NAMESPACE, dns=["localhost"])
    script = Path(__file__).parent / "issuer" / "issuer.mjs"
    process = await asyncio.create_subprocess_exec(
        str(NODE), str(script), str(port), str(pair.cert), str(pair.key), PROVIDER.as_uri(),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        async with asyncio.timeout(60):
            while b"listening" not in (line := await process.stdout.readline()):
                assert line, "the issuer has ended"
        yield f"https://localhost:{port}"
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.mark.long
@pytest.mark.parametrize("mode", ["2026-07-28", "legacy"])
async def test_a_host_without_anything_signs_in_and_calls_a_tool(tmp_path: Path, mode: str) -> None:
    if not PROVIDER.exists():
        pytest.fail(f"{PROVIDER} is missing: `make setup` installs it")
    mesh, port = Mesh(tmp_path), free_port()

    def accepted(public: str) -> TokenSettings:
        return TokenSettings(
            issuer=f"https://localhost:{port}",
            audience=f"{public}/mcp",
            jwks=f"https://localhost:{port}/jwks",
            jwks_bundle=mesh.ca.bundle,
        )

    async with issuing(mesh, port), mcp_stack(tmp_path, mcp_tools.TOOLS, token=accepted) as stack:
        context = ssl.create_default_context(cafile=str(mesh.ca.bundle))
        person, memory = Person(context), Memory()
        sign_in = OAuthClientProvider(
            f"{stack.people}/mcp",
            OAuthClientMetadata(redirect_uris=[AnyUrl(CALLBACK)], client_name="a host"),
            memory,
            redirect_handler=person.visit,
            callback_handler=person.result,
        )
        async with httpx2.AsyncClient(verify=context, trust_env=False, auth=sign_in, timeout=60) as http:
            transport = streamable_http_client(f"{stack.people}/mcp", http_client=http)
            made: Any = Client(transport, mode=mode, cache=None)
            async with made as client:
                result = await client.call_tool("add", {"a": 1, "b": 2})

        assert "3" == result.content[0].text
        assert memory.registration is not None

        # The token is bound to this audience: another resource's is no good here.
        others = stack.mesh.token(aud="https://another.example.org/mcp", iss=f"https://localhost:{port}")
        refused = await stack.post(token=others, json={"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
        assert 401 == refused.status_code
