"""`aegis mcp stdio` between a host and a gateway that does whatever gateways and networks do."""

from __future__ import annotations

import http.server
import io
import json
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from aegis_client import mcp_bridge, mcp_exchange
from aegis_client.mcp_bridge import Bridge
from aegis_client.profiles import Profile
from aegis_common.testing.pki import Mesh
from aegis_common.tls import server_dns

GUARD_S = 60.0


def event(message: Any) -> bytes:
    return b"event: message\r\ndata: " + json.dumps(message).encode() + b"\r\n\r\n"


class Gateway(http.server.ThreadingHTTPServer):
    """Answers each method as the test says."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: dict[str, Callable[[_Handler, dict[str, Any]], None]] = {}
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.begun, self.gone, self.release = threading.Event(), threading.Event(), threading.Event()

    def handle_error(self, *_: Any) -> None: ...


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Gateway
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        message = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.seen.append((message["method"], dict(self.headers)))
        self.server.answers.get(message["method"], answered)(self, message)

    def whole(self, status: int, content: bytes, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def stream(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()

    def piece(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
        self.wfile.flush()

    def drop(self) -> None:
        socket.socket.shutdown(self.connection, socket.SHUT_RDWR)
        self.close_connection = True

    def log_message(self, *_: Any) -> None: ...


def result(message: dict[str, Any]) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": message["id"], "result": {"method": message["method"]}}


def answered(handler: _Handler, message: dict[str, Any]) -> None:
    if "id" in message:
        handler.whole(200, json.dumps(result(message)).encode())
    else:
        handler.whole(202, b"")


def progressing(handler: _Handler, message: dict[str, Any]) -> None:
    handler.stream()
    told = {"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progress": 1}}
    handler.piece(b": ping\r\n\r\n" + event(told))
    handler.piece(event(result(message)))
    handler.piece(b"")


def cut(handler: _Handler, message: dict[str, Any]) -> None:
    handler.stream()
    handler.piece(b": ping\r\n\r\n")
    handler.close_connection = True


def ended(handler: _Handler, message: dict[str, Any]) -> None:
    handler.stream()
    handler.piece(b": ping\r\n\r\n")
    handler.piece(b"")


def stuck(handler: _Handler, message: dict[str, Any]) -> None:
    handler.stream()
    handler.server.begun.set()
    try:
        while not handler.server.release.wait(0.05):
            handler.piece(b": ping\r\n\r\n")
    except OSError:
        handler.server.gone.set()


def stuck_and_dropped(handler: _Handler, message: dict[str, Any]) -> None:
    stuck(handler, message)
    handler.drop()


def silent(handler: _Handler, message: dict[str, Any]) -> None:
    handler.server.begun.set()
    handler.server.release.wait(GUARD_S)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Mesh:
    return Mesh(tmp_path_factory.mktemp("bridge"))


@pytest.fixture
def gateway(mesh: Mesh) -> Iterator[Gateway]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls = mesh.tls("gateway")
    context.load_cert_chain(tls.cert, tls.key)
    with Gateway() as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield server
        server.release.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def profile(mesh: Mesh, gateway: Gateway) -> Profile:
    return Profile(
        address=f"127.0.0.1:{gateway.server_address[1]}",
        ca=mesh.ca.bundle,
        server_name=server_dns("gateway", "aegis"),
    )


def request(identifier: Any, method: str, **params: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": identifier, "method": method, "params": params}).encode()


def run(profile: Profile, *lines: bytes, silence_s: float = GUARD_S) -> list[dict[str, Any]]:
    """Send lines, close the input, and return what comes back."""
    output = io.BytesIO()
    Bridge(profile, output, silence_s=silence_s).run(io.BytesIO(b"\n".join(lines) + b"\n"))
    return [json.loads(line) for line in output.getvalue().splitlines()]


class Host:
    """A host whose ends of the pipes the test holds."""

    def __init__(self, profile: Profile) -> None:
        source, self._input = os.pipe()
        self._output, sink = os.pipe()
        self.answers: BinaryIO = os.fdopen(self._output, "rb")
        self._source, self._sink = os.fdopen(source, "rb"), os.fdopen(sink, "wb")
        self.bridge = Bridge(profile, self._sink)
        self.thread = threading.Thread(target=self.bridge.run, args=(self._source,), daemon=True)
        self.thread.start()

    def send(self, line: bytes) -> None:
        os.write(self._input, line + b"\n")

    def answer(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.answers.readline())
        return found

    def close(self) -> None:
        os.close(self._input)
        self.thread.join(GUARD_S)
        assert not self.thread.is_alive()


@contextmanager
def hosted(profile: Profile) -> Iterator[Host]:
    host = Host(profile)
    yield host
    host.close()
    with suppress(BrokenPipeError):
        host._sink.close()
    host.answers.close()
    host._source.close()


def test_answers_and_what_comes_before_them_are_passed_on(gateway: Gateway, profile: Profile) -> None:
    gateway.answers["tools/call"] = progressing

    told, answer = run(profile, request("a", "tools/call"))

    assert "notifications/progress" == told["method"]
    assert {"method": "tools/call"} == answer["result"]


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        (cut, "broke|without an answer"),
        (ended, "without an answer"),
        (lambda handler, _: handler.whole(200, b""), "without an answer"),
        (lambda handler, _: handler.whole(200, event([1]), "text/event-stream"), "without an answer"),
        (lambda handler, _: handler.whole(200, b"data: {\n\n", "text/event-stream"), "no JSON"),
        (lambda handler, _: handler.whole(502, b"<html>no</html>", "text/html"), "HTTP 502"),
        (lambda handler, _: handler.whole(503, b""), "HTTP 503"),
        (lambda handler, _: handler.whole(401, b'{"message": "who?"}'), "HTTP 401: who\\?; is the token"),
        (lambda handler, _: handler.drop(), "broke"),
    ],
)
def test_a_request_is_answered_whatever_the_gateway_does(
    gateway: Gateway, profile: Profile, behaviour: Any, words: str
) -> None:
    gateway.answers["tools/call"] = behaviour

    [answer] = run(profile, request(7, "tools/call"))

    assert (7, -32000) == (answer["id"], answer["error"]["code"])
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(answer["error"]["message"])


def test_requests_under_way_are_answered_when_the_gateway_dies(gateway: Gateway, profile: Profile) -> None:
    gateway.answers["tools/call"] = stuck_and_dropped
    with hosted(profile) as host:
        host.send(request(1, "tools/call"))
        assert gateway.begun.wait(GUARD_S)
        gateway.release.set()

        assert 1 == host.answer()["id"]


def test_a_gateway_that_falls_silent_is_not_waited_for(gateway: Gateway, profile: Profile) -> None:
    gateway.answers["tools/call"] = silent

    [answer] = run(profile, request(1, "tools/call"), silence_s=0.3)

    assert "has said nothing for 0.3 s" in answer["error"]["message"]


def test_a_gateway_that_is_not_there_is_told_apart_from_one_that_broke(profile: Profile) -> None:
    away = Profile(address="127.0.0.1:1", ca=profile.ca)

    [answer] = run(away, request(1, "tools/list"))

    assert "127.0.0.1:1 cannot be reached" in answer["error"]["message"]


def test_a_cancelled_request_ends_at_the_gateway_and_is_not_answered(
    gateway: Gateway, profile: Profile
) -> None:
    gateway.answers["tools/call"] = stuck
    with hosted(profile) as host:
        host.send(request(1, "tools/call"))
        assert gateway.begun.wait(GUARD_S)
        host.send(b'{"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": [1]}}')
        host.send(b'{"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}')
        assert gateway.gone.wait(GUARD_S)
        host.send(request(2, "tools/list"))

        assert 2 == host.answer()["id"]


def test_a_request_that_is_cancelled_while_it_waits_is_never_sent(
    gateway: Gateway, profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mcp_bridge, "MAX_REQUESTS", 1)
    gateway.answers["tools/call"] = stuck
    with hosted(profile) as host:
        host.send(request(1, "tools/call"))
        assert gateway.begun.wait(GUARD_S)
        host.send(request(2, "tools/list"))
        host.send(b'{"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 2}}')
        host.send(request(3, "ping"))
        host.send(b'{"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}')

        assert 3 == host.answer()["id"]
    assert ["tools/call", "ping"] == [method for method, _ in gateway.seen]


@pytest.mark.parametrize(
    ("line", "code", "identifier"),
    [
        (b"\xff\xfe", -32700, None),
        (b"[" * 100_000, -32700, None),
        (b"[]", -32700, None),
        (request([1], "ping"), -32600, None),
        (request(None, "ping"), -32600, None),
        (request(True, "ping"), -32600, None),
        (b'{"id": 5, "method": ["ping"]}', -32600, 5),
    ],
)
def test_a_line_that_is_no_request_is_refused_and_the_next_one_served(
    gateway: Gateway, profile: Profile, line: bytes, code: int, identifier: Any
) -> None:
    refused, served = sorted(run(profile, line, request("x", "ping")), key=lambda answer: "result" in answer)

    assert (identifier, code) == (refused["id"], refused["error"]["code"])
    assert "x" == served["id"]


def test_an_id_that_is_under_way_is_refused(gateway: Gateway, profile: Profile) -> None:
    gateway.answers["tools/call"] = stuck
    with hosted(profile) as host:
        host.send(request(1, "tools/call"))
        assert gateway.begun.wait(GUARD_S)
        host.send(request(1, "tools/list"))
        answer = host.answer()
        host.send(b'{"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}')

    assert (1, "is under way" in answer["error"]["message"]) == (answer["id"], True)


WAYS = {1: "one", 2: "two", 3: "ping"}


def test_what_is_too_large_is_refused_either_way(
    gateway: Gateway, profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (mcp_bridge, mcp_exchange):
        monkeypatch.setattr(module, "MAX_BYTES", 1000)
    large = {"jsonrpc": "2.0", "id": 1, "result": {"text": "x" * 2000}}
    gateway.answers["one"] = lambda handler, _: handler.whole(200, json.dumps(large).encode())
    gateway.answers["two"] = lambda handler, _: handler.whole(200, event(large), "text/event-stream")

    lines = [request(0, "ping", text="x" * 5000), *(request(i, how) for i, how in WAYS.items())]
    messages = {answer["id"]: answer for answer in run(profile, *lines)}

    assert "more than 1000 bytes" in messages[None]["error"]["message"]
    assert "larger than 1000 bytes" in messages[1]["error"]["message"]
    assert "larger than 1000 bytes" in messages[2]["error"]["message"]
    assert "result" in messages[3]


def test_a_token_is_never_shown(gateway: Gateway, profile: Profile, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("secret-one\nsecret-two")
    broken = Profile(address=profile.address, ca=profile.ca, token_file=file)

    [answer] = run(broken, request(1, "ping"))

    assert "the token has spaces" in answer["error"]["message"]
    assert "secret" not in answer["error"]["message"]


def test_a_version_cannot_bring_headers_of_its_own(gateway: Gateway, profile: Profile) -> None:
    meta = {"io.modelcontextprotocol/protocolVersion": "2026-07-28\r\nx-evil: 1"}

    [answer] = run(profile, request(1, "ping", _meta=meta))

    assert "cannot stand in a header" in answer["error"]["message"]
    assert [] == gateway.seen


def test_a_host_that_leaves_ends_everything_soon(
    gateway: Gateway, profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mcp_bridge, "_LEAVE_S", 0.1)
    gateway.answers["tools/call"] = stuck
    with hosted(profile) as host:
        host.send(request(1, "tools/call"))
        assert gateway.begun.wait(GUARD_S)
    assert gateway.gone.wait(GUARD_S)


def test_a_host_that_no_longer_reads_ends_what_it_asked_for(gateway: Gateway, profile: Profile) -> None:
    gateway.answers["tools/call"] = stuck
    with hosted(profile) as host:
        host.answers.close()
        host.send(request(1, "tools/call"))
        assert gateway.begun.wait(GUARD_S)
        host.send(request(2, "ping"))

        assert gateway.gone.wait(GUARD_S)
