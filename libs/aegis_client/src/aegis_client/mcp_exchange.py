"""One MCP message to the gateway's `/mcp` over HTTPS, and everything that comes back for it."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from typing import Any, Final

from aegis_client.errors import AegisClientError, ProfileError, UsageError
from aegis_client.profiles import Profile

PATH: Final = "/mcp"
MAX_BYTES: Final = 32 << 20
"""Largest message, either way."""
SILENCE_S: Final = 120.0
"""How long the gateway may say nothing while it answers; it sends something every 15 s."""
_MODERN: Final = "io.modelcontextprotocol/protocolVersion"
_NAMED_BY: Final = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
_PLAIN: Final = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?")
_TOKEN: Final = re.compile(r"[\x21-\x7e]+")
_CONNECT_S: Final = 30.0

Message = dict[str, Any]


class Exchange:
    """A message from a host, on its way.

    Args:
        profile: Where the gateway is and who calls; its files are read anew.
        message: What the host has sent.
        silence_s: How long the gateway may say nothing.

    Attributes:
        aborted: Nobody waits for an answer any more.
        answered: The answer to the request has come.
    """

    def __init__(self, profile: Profile, message: Message, *, silence_s: float = SILENCE_S) -> None:
        self._profile, self._message, self._silence_s = profile, message, silence_s
        self._connection: http.client.HTTPSConnection | None = None
        self.method: Final = str(message["method"])
        self.identifier: Final = message.get("id")
        self.aborted = False
        self.answered = False

    def abort(self) -> None:
        """End it from another thread."""
        self.aborted = True
        connection = self._connection
        if connection is not None and isinstance(connection.sock, socket.socket):
            with contextlib.suppress(OSError):
                # Not the TLS socket's own method: that takes the TLS layer from under the thread that reads.
                socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)

    def answers(self, version: str) -> Iterator[Message]:
        """Send the message and yield every message of the response.

        Args:
            version: Protocol version that `initialize` has agreed on, or empty.

        Raises:
            AegisClientError: A file of the profile cannot be used, the gateway cannot be reached or refused
                the message, or the response broke off.
        """
        headers = self._headers(version)
        connection = self._connection = self._connected()
        try:
            if not self.aborted:
                yield from self._exchanged(connection, headers)
        except TimeoutError as error:
            raise AegisClientError(f"{self._at} has said nothing for {self._silence_s:g} s") from error
        except (OSError, http.client.HTTPException) as error:
            raise AegisClientError(f"the connection to {self._at} broke: {_told(error)}") from error
        except (ValueError, RecursionError) as error:
            raise AegisClientError(f"{self._at} answered what is no JSON: {_told(error)}") from error
        finally:
            connection.close()

    @property
    def _at(self) -> str:
        return self._profile.address

    def _exchanged(
        self, connection: http.client.HTTPSConnection, headers: Mapping[str, str]
    ) -> Iterator[Message]:
        connection.request("POST", PATH, json.dumps(self._message).encode(), headers)
        response = connection.getresponse()
        if response.headers.get("content-type", "").startswith("text/event-stream"):
            for event in _events(response):
                if isinstance(event, dict):
                    self._note(event)
                    yield event
        elif content := response.read(MAX_BYTES + 1):
            answer = self._answer(content, response.status)
            self._note(answer)
            yield answer
        elif response.status >= 400:
            raise AegisClientError(f"the gateway answered HTTP {response.status}{self._profile.place}")

    def _note(self, answer: Message) -> None:
        self.answered |= "method" not in answer and answer.get("id") == self.identifier

    def _answer(self, content: bytes, status: int) -> Message:
        """Return a JSON answer; a refusal that is no JSON-RPC becomes an error with its words."""
        if len(content) > MAX_BYTES:
            raise _too_large()
        try:
            read = json.loads(content)
        except ValueError:
            read = None
        if isinstance(read, dict) and "jsonrpc" in read:
            if read.get("id") is None:
                read["id"] = self.identifier
            return read
        text = str(read.get("message", "")) if isinstance(read, dict) else "what is no JSON"
        hint = "; is the token of the profile still good?" if status == 401 else ""
        raise AegisClientError(f"the gateway answered HTTP {status}: {text}{hint}{self._profile.place}")

    def _headers(self, version: str) -> dict[str, str]:
        headers = {
            "accept": "application/json, text/event-stream",
            "content-type": "application/json",
            "user-agent": "aegis-mcp-stdio",
        }
        params = mapping(self._message, "params")
        modern = mapping(params, "_meta").get(_MODERN)
        if isinstance(modern, str):
            headers |= {"mcp-protocol-version": _plain(modern), "mcp-method": _plain(self.method)}
            name = params.get(_NAMED_BY.get(self.method, ""))
            if isinstance(name, str):
                headers["mcp-name"] = _header_value(name)
        elif version and self.method != "initialize":
            headers["mcp-protocol-version"] = _plain(version)
        if token := _token(self._profile):
            headers["authorization"] = f"Bearer {token}"
        return headers

    def _connected(self) -> http.client.HTTPSConnection:
        profile = self._profile
        host, _, port = profile.address.rpartition(":")
        try:
            context = ssl.create_default_context(cafile=str(profile.ca) if profile.ca else None)
            if profile.cert is not None:
                context.load_cert_chain(profile.cert, profile.key)
        except (OSError, ssl.SSLError) as error:
            raise ProfileError(f"the certificates cannot be used: {error}{profile.place}") from error
        connection = _Named(host.strip("[]"), int(port), timeout=_CONNECT_S, context=context)
        connection.server_name = profile.server_name
        try:
            connection.connect()
        except OSError as error:
            connection.close()
            raise AegisClientError(f"{self._at} cannot be reached: {_told(error)}") from error
        if connection.sock is not None:
            connection.sock.settimeout(self._silence_s)
        return connection


class _Named(http.client.HTTPSConnection):
    """A connection to a server whose certificate carries another name than its address."""

    server_name = ""

    def connect(self) -> None:
        http.client.HTTPConnection.connect(self)
        context: ssl.SSLContext = self._context  # type: ignore[attr-defined]  # of the base class
        self.sock = context.wrap_socket(self.sock, server_hostname=self.server_name or self.host)


def _events(response: http.client.HTTPResponse) -> Iterator[Any]:
    data: list[str] = []
    size = 0
    while line := response.readline(MAX_BYTES + 1):
        size += len(line)
        if size > MAX_BYTES:
            raise _too_large()
        text = line.decode().rstrip("\r\n")
        if text.startswith("data:"):
            data.append(text[5:].removeprefix(" "))
        elif not text:
            content, data, size = "\n".join(data), [], 0
            if content:
                yield json.loads(content)


def _too_large() -> AegisClientError:
    return AegisClientError(f"the gateway's answer is larger than {MAX_BYTES} bytes")


def _told(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _plain(text: str) -> str:
    if not _PLAIN.fullmatch(text):
        raise UsageError(f"{text[:80]!r} cannot stand in a header")
    return text


def _header_value(text: str) -> str:
    if _PLAIN.fullmatch(text) and not text.startswith("=?base64?"):
        return text
    return f"=?base64?{base64.b64encode(text.encode()).decode()}?="


def _token(profile: Profile) -> str:
    token = profile.token
    if profile.token_file is not None:
        try:
            token = profile.token_file.read_text(encoding="ascii")
        except (OSError, ValueError) as error:
            raise ProfileError(f"token_file {profile.token_file} cannot be read{profile.place}") from error
    token = token.strip()
    if token and not _TOKEN.fullmatch(token):  # a message of the HTTP library would show it
        raise ProfileError(f"the token has spaces, line ends or other signs inside{profile.place}")
    return token


def mapping(message: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return a member that is an object, or an empty one."""
    value = message.get(key)
    return value if isinstance(value, dict) else {}
