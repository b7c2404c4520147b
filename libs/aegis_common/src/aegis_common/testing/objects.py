"""A real S3 server for tests: moto's, on loopback, with one bucket."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Final

import httpx
from moto.server import ThreadedMotoServer

from aegis_common.store.connect import StoreOptions

BUCKET: Final = "models"
_ID: Final = "test"
_SECRET: Final = "test"  # noqa: S105  # of a server that accepts any


@contextmanager
def s3_server(directory: Path) -> Iterator[StoreOptions]:
    """Run an S3 server with the bucket `models`; yields how to reach it. Needs `moto[server]`.

    Args:
        directory: Where the credentials file goes.
    """
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        httpx.put(f"{endpoint}/{BUCKET}").raise_for_status()
        credentials = directory / "credentials"
        credentials.write_text(f"[default]\naws_access_key_id = {_ID}\naws_secret_access_key = {_SECRET}\n")
        yield StoreOptions(
            endpoint=endpoint, credentials_file=credentials, retries=0, timeout=timedelta(seconds=10)
        )
    finally:
        server.stop()
