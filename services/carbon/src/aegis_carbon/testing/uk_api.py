"""A stand-in for the UK Carbon Intensity API: a real HTTP server on loopback, told what to answer."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

SLOT: Final = timedelta(minutes=30)
_FORM: Final = "%Y-%m-%dT%H:%MZ"


@dataclass(frozen=True)
class Answer:
    """What to send.

    Attributes:
        body: Bytes as they are; anything else as JSON.
        status: HTTP status.
        headers: More headers.
        delay_s: Wait before the answer or, with more than one chunk, after each chunk; in seconds.
        chunks: Send the body so many times over.
    """

    body: Any = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    chunks: int = 1

    def encoded(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


@dataclass(frozen=True)
class Request:
    """What was asked; header names in lower case."""

    path: str
    headers: Mapping[str, str]


def moment(text: str) -> datetime:
    """Return a time as the API writes it."""
    return datetime.strptime(text, _FORM).replace(tzinfo=UTC)


def row(start: datetime, *, length: timedelta = SLOT, **intensity: Any) -> dict[str, Any]:
    """Return a slot as the API writes it; *intensity* holds `forecast` and, nationally, `actual`."""
    return {
        "from": start.strftime(_FORM),
        "to": (start + length).strftime(_FORM),
        "intensity": {**intensity, "index": "moderate"},
    }


def national(start: datetime, **intensity: Any) -> Answer:
    """Return the answer of `/intensity` with one slot."""
    return Answer({"data": [row(start, **intensity)]})


class UkApi:
    """Gives the answers of `script` in turn, then what `answer` says of a request, or else `default`.

    Attributes:
        url: For `CARBON_API_URL`.
        requests: What was asked so far.
    """

    def __init__(self, url: str) -> None:
        self.url: Final = url
        self.default = Answer({"data": []})
        self.script: list[Answer] = []
        self.answer: Callable[[Request], Answer] | None = None
        self.requests: list[Request] = []
        self.stopped: Final = threading.Event()

    def next_answer(self) -> Answer:
        """Return what the last request gets: the script's next, else what `answer` says, else the default."""
        if self.script:
            return self.script.pop(0)
        return self.answer(self.requests[-1]) if self.answer is not None else self.default

    @classmethod
    @contextmanager
    def serving(cls) -> Iterator[UkApi]:
        """Serve on a free port until the block ends; answers that are still waiting are cut short."""
        server = _Server(("127.0.0.1", 0), _Handler)
        server.api = api = cls(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.02), daemon=True)
        thread.start()
        try:
            yield api
        finally:
            api.stopped.set()
            server.shutdown()
            thread.join()
            server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    api: UkApi


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:  # the name that http.server calls
        api = self.server.api
        api.requests.append(Request(self.path, {name.lower(): text for name, text in self.headers.items()}))
        answer = api.next_answer()
        if answer.chunks == 1:
            api.stopped.wait(answer.delay_s)
        with suppress(OSError):  # the caller may have hung up
            self._send(answer)

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        for _ in range(answer.chunks):
            self.wfile.write(answer.encoded())
            if answer.chunks > 1:
                self.server.api.stopped.wait(answer.delay_s)

    def log_message(self, *args: object) -> None:
        """Say nothing: the test looks at `requests`."""
