"""MCP over stdin and stdout for a local host, forwarded message by message to the gateway's `/mcp`.

The host needs no certificate and no token: the profile's are used, and read again for each message.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import BinaryIO, Final

from aegis_client.errors import AegisClientError
from aegis_client.mcp_exchange import MAX_BYTES, SILENCE_S, Exchange, Message, mapping
from aegis_client.profiles import Profile

MAX_REQUESTS: Final = 32
"""Most messages that are under way at once; more wait."""
MAX_WAITING: Final = 256
"""Most messages that are under way or wait; more are refused."""
_PARSE_ERROR, _INVALID_REQUEST, _FAILED = -32700, -32600, -32000
_LEAVE_S: Final = 5.0
_ABORT_S: Final = 1.0


class Bridge:
    """One host on stdin and stdout.

    Args:
        profile: Where the gateway is and who calls.
        output: Takes one JSON-RPC message to a line, UTF-8.
        silence_s: How long the gateway may say nothing while it answers.
    """

    def __init__(self, profile: Profile, output: BinaryIO, *, silence_s: float = SILENCE_S) -> None:
        self._profile = profile
        self._output = output
        self._silence_s = silence_s
        self._writing = threading.Lock()
        self._slots = threading.BoundedSemaphore(MAX_REQUESTS)
        self._version = ""
        self._running: dict[str | int, Exchange] = {}
        self._under_way: dict[threading.Thread, Exchange] = {}

    def run(self, source: BinaryIO) -> None:
        """Forward each line until there are no more, and give what is under way a moment to end."""
        for line in _lines(source):
            exchange = self._taken(line)
            if exchange is not None:
                self._start(exchange)
        self._join(_LEAVE_S)
        self._abort_all()
        self._join(_ABORT_S)

    def _taken(self, line: bytes | None) -> Exchange | None:
        """Return what a line asks for; what is wrong with it is answered at once."""
        if line is None:
            self._fail(None, _PARSE_ERROR, f"a line has more than {MAX_BYTES} bytes")
            return None
        try:
            message = json.loads(line.decode())
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict):
            self._fail(None, _PARSE_ERROR, "a line is no JSON-RPC message")
            return None
        if message.get("method") == "notifications/cancelled":
            self._cancel(message)
            return None
        if "method" not in message:
            return None  # an answer: no request to the host is ever passed on
        fault = self._fault(message)
        if fault:
            self._fail(_identifier(message), _INVALID_REQUEST, fault)
            return None
        return Exchange(self._profile, message, silence_s=self._silence_s)

    def _fault(self, message: Message) -> str:
        identifier = _identifier(message)
        if not isinstance(message["method"], str):
            return "the method is no text"
        if "id" in message and identifier is None:
            return "the id is neither a text nor a whole number"
        if identifier in self._running:
            return f"a request with the id {identifier!r} is under way"
        if len(self._under_way) >= MAX_WAITING:
            return f"{MAX_WAITING} messages are under way; wait for an answer"
        return ""

    def _cancel(self, message: Message) -> None:
        """End the response: to the gateway, that is what cancels a request."""
        named = mapping(message, "params").get("requestId")
        exchange = self._running.get(named) if isinstance(named, str | int) else None
        if exchange is not None:
            exchange.abort()

    def _start(self, exchange: Exchange) -> None:
        if exchange.identifier is not None:
            self._running[exchange.identifier] = exchange
        # A daemon: one that still connects must not keep the host waiting when it has closed its end.
        thread = threading.Thread(target=self._forward, args=(exchange,), name="mcp", daemon=True)
        self._under_way[thread] = exchange
        thread.start()

    def _forward(self, exchange: Exchange) -> None:
        try:
            with self._slots:
                self._pass_on(exchange)
            fault = "" if exchange.answered else "the gateway ended its response without an answer"
        except AegisClientError as error:
            fault = error.message
        finally:
            if exchange.identifier is not None:
                self._running.pop(exchange.identifier, None)
            self._under_way.pop(threading.current_thread(), None)
        if fault and not exchange.answered and not exchange.aborted:
            self._fail(exchange.identifier, _FAILED, fault)

    def _pass_on(self, exchange: Exchange) -> None:
        if exchange.aborted:
            return  # while it waited
        for answer in exchange.answers(self._version):
            if exchange.aborted:
                return
            if exchange.method == "initialize":
                version = mapping(answer, "result").get("protocolVersion")
                self._version = version if isinstance(version, str) else self._version
            self._write(answer)

    def _fail(self, identifier: str | int | None, code: int, text: str) -> None:
        if identifier is not None or code != _FAILED:
            self._write({"jsonrpc": "2.0", "id": identifier, "error": {"code": code, "message": text}})

    def _write(self, message: Message) -> None:
        line = json.dumps(message, separators=(",", ":")).encode() + b"\n"
        try:
            with self._writing:
                self._output.write(line)
                self._output.flush()
        except (OSError, ValueError):  # the host has gone; it closes our input too
            self._abort_all()

    def _abort_all(self) -> None:
        for exchange in list(self._under_way.values()):
            exchange.abort()

    def _join(self, within_s: float) -> None:
        end = time.monotonic() + within_s
        for thread in list(self._under_way):
            thread.join(max(0.0, end - time.monotonic()))


def _lines(source: BinaryIO) -> Iterator[bytes | None]:
    """Give each line that is not empty; None stands for one that is too long."""
    while line := source.readline(MAX_BYTES + 1):
        if len(line) > MAX_BYTES and not line.endswith(b"\n"):
            while line and not line.endswith(b"\n"):
                line = source.readline(MAX_BYTES)
            yield None
        elif line.strip():
            yield line


def _identifier(message: Message) -> str | int | None:
    found = message.get("id")
    return found if isinstance(found, str | int) and not isinstance(found, bool) else None
