"""The bench's client, a process of its own: so many requests at once until so many are answered.

Reads a JSON object a line - target, credentials or none, file of the request, count, at once - and prints how
long it took, in seconds, and how many requests failed.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import grpc

METHOD = "/inference.GRPCInferenceService/ModelInfer"


def main() -> None:
    channels: dict[str, Any] = {}
    for line in sys.stdin:
        job = json.loads(line)
        if job["target"] not in channels:
            channels[job["target"]] = channel(job)
        took, failed = Load(channels[job["target"]], job).run()
        sys.stdout.write(json.dumps({"seconds": took, "failed": failed}) + "\n")
        sys.stdout.flush()


def channel(job: dict[str, Any]) -> Any:
    if not job.get("tls"):
        return grpc.insecure_channel(job["target"])
    bundle, key, cert = (Path(job["tls"][name]).read_bytes() for name in ("bundle", "key", "cert"))
    credentials = grpc.ssl_channel_credentials(bundle, key, cert)
    options = [("grpc.ssl_target_name_override", job["tls"]["name"])]
    return grpc.secure_channel(job["target"], credentials, options)


class Load:
    """One load: each answer starts the next request, in gRPC's own thread, which costs least."""

    def __init__(self, to: Any, job: dict[str, Any]) -> None:
        self._call = to.unary_unary(METHOD)
        self._body = Path(job["body"]).read_bytes()
        self._at_once = job["at_once"]
        self._left = self._open = job["count"]
        self._failed = 0
        self._lock = threading.Lock()
        self._done = threading.Event()

    def run(self) -> tuple[float, int]:
        begin = time.monotonic()
        for _ in range(self._at_once):
            self._next()
        self._done.wait()
        return time.monotonic() - begin, self._failed

    def _next(self) -> None:
        with self._lock:
            if not self._left:
                return
            self._left -= 1
        self._call.future(self._body, timeout=60).add_done_callback(self._ended)

    def _ended(self, call: Any) -> None:
        self._next()
        with self._lock:
            self._failed += call.exception() is not None
            self._open -= 1
            if not self._open:
                self._done.set()


if __name__ == "__main__":
    main()
