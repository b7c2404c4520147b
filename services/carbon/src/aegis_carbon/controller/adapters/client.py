"""HTTP to the API server: the service account's files, errors by what can be done about them."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx

from aegis_carbon.controller.domain.ports import ApiUnavailable, Changed
from aegis_common.errors import AegisError, ConfigurationError, ErrorKind
from aegis_common.files import read_file

MERGE_PATCH: Final = "application/merge-patch+json"
_TIMEOUT: Final = httpx.Timeout(10.0)
_MOST_ERROR_BYTES: Final = 64 << 10


class NotFound(AegisError):
    """There is no such object."""

    kind = ErrorKind.NOT_FOUND
    reason = "OBJECT_NOT_FOUND"


class Gone(AegisError):
    """The resource version is too old to go on from: everything has to be listed again."""

    kind = ErrorKind.ABORTED
    reason = "RESOURCE_VERSION_GONE"


class KubeClient:
    """Calls the API server as the service account whose token is in a file.

    Args:
        server: URL of the API server.
        token: File of the token; the kubelet writes a new one about every hour, and each call reads it.
        http: Client to send with.
    """

    def __init__(self, server: str, token: Path, http: httpx.AsyncClient) -> None:
        self._server, self._token, self._http = server.rstrip("/"), token, http

    @classmethod
    @asynccontextmanager
    async def open(cls, server: str, *, ca: Path, token: Path) -> AsyncIterator[KubeClient]:
        """Open a client that trusts *ca* alone.

        Raises:
            ConfigurationError: A file cannot be read, or *ca* holds no certificate.
        """
        read_file(token, "token of the service account")
        try:
            trust = ssl.create_default_context(cadata=read_file(ca, "CA of the API server").decode())
        except (ssl.SSLError, ValueError) as error:
            raise ConfigurationError(f"{ca} holds no PEM certificate: {error}", path=str(ca)) from error
        # Each namespace that is watched keeps a connection.
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(verify=trust, timeout=_TIMEOUT, limits=limits, trust_env=False) as http:
            yield cls(server, token, http)

    async def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
    ) -> dict[str, Any]:
        """Return the object that the API server answers with.

        Raises:
            NotFound: 404.
            Changed: 409: it was changed since it was read, or is there already.
            Gone: 410.
            ApiUnavailable: Anything else, and no answer at all.
        """
        headers = self._headers({"content-type": content_type} if body is not None else {})
        content = json.dumps(body) if body is not None else None
        try:
            answer = await self._http.request(
                method, self._server + path, params=query, content=content, headers=headers
            )
            if answer.is_success:
                found = answer.json()
                if isinstance(found, dict):
                    return found
                raise ApiUnavailable(f"the API server answered {method} {path} with no object")
        except (httpx.HTTPError, ValueError) as error:
            raise _no_answer(error) from error
        raise refusal(answer.status_code, answer.content)

    @asynccontextmanager
    async def stream(
        self, path: str, *, query: Mapping[str, str], silence_s: float
    ) -> AsyncIterator[AsyncIterator[str]]:
        """Yield the lines of an answer that goes on.

        Args:
            path: What to ask for.
            query: How.
            silence_s: A connection that says nothing for so long is given up.

        Raises:
            Gone, ApiUnavailable: As `call`, at any time.
        """
        timeout = httpx.Timeout(10.0, read=silence_s)
        request = self._http.build_request(
            "GET", self._server + path, params=dict(query), headers=self._headers({}), timeout=timeout
        )
        try:
            answer = await self._http.send(request, stream=True)
            try:
                if not answer.is_success:
                    raise refusal(answer.status_code, (await answer.aread())[:_MOST_ERROR_BYTES])
                yield answer.aiter_lines()
            finally:
                await answer.aclose()
        except httpx.HTTPError as error:
            raise _no_answer(error) from error

    def _headers(self, more: Mapping[str, str]) -> dict[str, str]:
        try:
            token = self._token.read_text().strip()
        except (OSError, ValueError) as error:
            raise ApiUnavailable(f"the token of the service account cannot be read: {error}") from error
        return {"authorization": f"Bearer {token}", "accept": "application/json", **more}


def refusal(code: int, content: bytes) -> AegisError:
    """Return the error of a `Status` answer, whatever it is made of."""
    message = _message(content)
    if code == httpx.codes.NOT_FOUND:
        return NotFound(f"the API server knows no such object: {message}")
    if code == httpx.codes.CONFLICT:
        return Changed(f"the object is not as it was read: {message}")
    if code == httpx.codes.GONE:
        return Gone(f"the resource version is too old: {message}")
    hint = "; does its role allow it?" if code == httpx.codes.FORBIDDEN else ""
    return ApiUnavailable(f"the API server answered {code}: {message}{hint}", code=str(code))


def _message(content: bytes) -> str:
    try:
        status = json.loads(content)
        return str(status["message"])[:300]
    except (ValueError, KeyError, TypeError):
        return content[:100].decode(errors="replace") or "no message"


def _no_answer(error: Exception) -> ApiUnavailable:
    return ApiUnavailable(f"the API server gave no answer: {type(error).__name__}: {error}")
