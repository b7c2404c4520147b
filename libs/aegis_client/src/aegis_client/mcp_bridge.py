"""MCP over stdin and stdout for a local host, forwarded message by message to the gateway's `/mcp`.

The host needs no certificate and no token: the profile's are used, and read again for each message.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import re
import ssl
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import IO, Any, Final

from aegis_client.errors import AegisClientError, ProfileError
from aegis_client.profiles import Profile

PATH: Final = "/mcp"
MAX_REQUESTS: Final = 32
"""Most requests that are under way at once; more wait."""
_MODERN: Final = "io.modelcontextprotocol/protocolVersion"
_NAMED_BY: Final = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
_PLAIN: Final = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?")
_PARSE_ERROR, _FAILED = -32700, -32000
_CONNECT_S: Final = 30.0
_LEAVE_S: Final = 5.0
_MAX_LINE_BYTES: Final = 32 << 20

Message = dict[str, Any]


class Bridge:
    """One host on stdin and stdout.

    Args:
        profile: Where the gateway is and who calls.
        output: Takes one JSON-RPC message to a line.
    """

    def __init__(self, profile: Profile, output: IO[str]) -> None:
        self._profile = profile
        self._output = output
        self._writing = threading.Lock()
        self._version = ""
        self._running: dict[str | int, _Exchange] = {}

    def run(self, lines: Iterator[str]) -> None:
        """Forward each line until there are no more, and give what is under way a moment to end."""
        with ThreadPoolExecutor(MAX_REQUESTS, thread_name_prefix="mcp") as pool:
            under_way: set[Future[None]] = set()
            for message in self._messages(lines):
                future = pool.submit(self._forward, message)
                under_way.add(future)
                future.add_done_callback(under_way.discard)
            wait(list(under_way), _LEAVE_S)
            for exchange in list(self._running.values()):
                exchange.abort()

    def _messages(self, lines: Iterator[str]) -> Iterator[Message]:
        for line in lines:
            if not line.strip():
                continue
            try:
                message = json.loads(line)
            except ValueError:
                message = None
            if not isinstance(message, dict):
                self._fail(None, _PARSE_ERROR, "a line is no JSON-RPC message")
            elif message.get("method") == "notifications/cancelled":
                self._cancel(message)
            elif "method" in message:  # answers to requests that we never pass on are dropped
                yield message

    def _cancel(self, message: Message) -> None:
        """End the response: to the gateway, that is what cancels a request."""
        exchange = self._running.get(_mapping(message, "params").get("requestId", ""))
        if exchange is not None:
            exchange.abort()

    def _forward(self, message: Message) -> None:
        identifier = message.get("id")
        exchange = _Exchange(self._profile, message, self._version)
        if identifier is not None:
            self._running[identifier] = exchange
        try:
            for answer in exchange.answers():
                if message["method"] == "initialize":
                    version = _mapping(answer, "result").get("protocolVersion")
                    self._version = version if isinstance(version, str) else self._version
                self._write(answer)
        except AegisClientError as error:
            self._fail(identifier, _FAILED, error.message)
        except (OSError, http.client.HTTPException, ValueError) as error:
            if not exchange.aborted:
                self._fail(identifier, _FAILED, f"{self._profile.address} cannot be reached: {error}")
        finally:
            if identifier is not None:
                self._running.pop(identifier, None)

    def _fail(self, identifier: str | int | None, code: int, text: str) -> None:
        if identifier is not None or code == _PARSE_ERROR:
            self._write({"jsonrpc": "2.0", "id": identifier, "error": {"code": code, "message": text}})

    def _write(self, message: Message) -> None:
        with self._writing:
            self._output.write(json.dumps(message, separators=(",", ":")) + "\n")
            self._output.flush()


class _Exchange:
    """One message to the gateway, and what comes back."""

    def __init__(self, profile: Profile, message: Message, version: str) -> None:
        self._profile, self._message, self._version = profile, message, version
        self._connection: http.client.HTTPSConnection | None = None
        self.aborted = False

    def abort(self) -> None:
        """End it from another thread."""
        self.aborted = True
        connection = self._connection
        if connection is not None and connection.sock is not None:
            with contextlib.suppress(OSError):
                connection.sock.shutdown(2)

    def answers(self) -> Iterator[Message]:
        """Send the message and yield every message of the response.

        Raises:
            ProfileError: A file of the profile cannot be used.
            AegisClientError: The gateway refused the message.
        """
        self._connection = connection = _connect(self._profile)
        try:
            if self.aborted:
                return
            body = json.dumps(self._message).encode()
            connection.request("POST", PATH, body, self._headers())
            response = connection.getresponse()
            kind = response.headers.get("content-type", "")
            if kind.startswith("text/event-stream"):
                yield from _events(response)
            elif content := response.read():
                yield self._answer(json.loads(content), response.status)
            elif response.status >= 400:
                raise AegisClientError(f"the gateway answered HTTP {response.status}")
        finally:
            connection.close()

    def _answer(self, content: Any, status: int) -> Message:
        """Return a JSON answer; a refusal that is no JSON-RPC becomes an error with its words."""
        if isinstance(content, dict) and "jsonrpc" in content:
            if content.get("id") is None:
                content["id"] = self._message.get("id")
            return content
        text = str(content.get("message", "")) if isinstance(content, dict) else ""
        hint = "; is the token of the profile still good?" if status == 401 else ""
        raise AegisClientError(f"the gateway answered HTTP {status}: {text}{hint}{self._profile.place}")

    def _headers(self) -> dict[str, str]:
        headers = {
            "accept": "application/json, text/event-stream",
            "content-type": "application/json",
            "user-agent": "aegis-mcp-stdio",
        }
        params = _mapping(self._message, "params")
        modern = _mapping(params, "_meta").get(_MODERN)
        method = str(self._message["method"])
        if isinstance(modern, str):
            headers |= {"mcp-protocol-version": modern, "mcp-method": method}
            name = params.get(_NAMED_BY.get(method, ""))
            if isinstance(name, str):
                headers["mcp-name"] = _header_value(name)
        elif self._version and method != "initialize":
            headers["mcp-protocol-version"] = self._version
        if token := _token(self._profile):
            headers["authorization"] = f"Bearer {token}"
        return headers


def _connect(profile: Profile) -> http.client.HTTPSConnection:
    host, _, port = profile.address.rpartition(":")
    try:
        context = ssl.create_default_context(cafile=str(profile.ca) if profile.ca else None)
        if profile.cert is not None:
            context.load_cert_chain(profile.cert, profile.key)
    except (OSError, ssl.SSLError) as error:
        raise ProfileError(f"the certificates cannot be used: {error}{profile.place}") from error
    connection = _Named(host.strip("[]"), int(port), timeout=_CONNECT_S, context=context)
    connection.server_name = profile.server_name
    connection.connect()
    if connection.sock is not None:
        connection.sock.settimeout(None)  # a tool may take long; the gateway has the deadline
    return connection


class _Named(http.client.HTTPSConnection):
    """A connection to a server whose certificate carries another name than its address."""

    server_name = ""

    def connect(self) -> None:
        http.client.HTTPConnection.connect(self)
        context: ssl.SSLContext = self._context  # type: ignore[attr-defined]  # of the base class
        self.sock = context.wrap_socket(self.sock, server_hostname=self.server_name or self.host)


def _events(response: http.client.HTTPResponse) -> Iterator[Message]:
    data: list[str] = []
    while line := response.readline(_MAX_LINE_BYTES):
        text = line.decode().rstrip("\r\n")
        if text.startswith("data:"):
            data.append(text[5:].removeprefix(" "))
        elif not text and data:
            content, data = "\n".join(data), []
            if content:
                yield json.loads(content)


def _header_value(text: str) -> str:
    if _PLAIN.fullmatch(text) and not text.startswith("=?base64?"):
        return text
    return f"=?base64?{base64.b64encode(text.encode()).decode()}?="


def _token(profile: Profile) -> str:
    if profile.token_file is None:
        return profile.token
    try:
        return profile.token_file.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        raise ProfileError(f"token_file {profile.token_file} cannot be read{profile.place}") from error


def _mapping(message: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = message.get(key)
    return value if isinstance(value, dict) else {}
