"""Render again when a file changes that a running gateway does not watch itself."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from aegis_common.errors import AegisError
from aegis_gateway.render import render
from aegis_gateway.settings import GatewaySettings

_INTERVAL_S: Final = 1.0


def follow(
    load: Callable[[], GatewaySettings],
    out_dir: Path,
    *,
    settings_file: Path | None,
    alive: Callable[[], bool],
) -> None:
    """Render whenever the settings, the identities or the key file change, as long as *alive*.

    What cannot be rendered is told on stderr, and the files stay as they are.
    """
    settings = load()
    seen: list[bytes] | None = None
    while alive():
        content = [_content(file) for file in _sources(settings, settings_file)]
        if content != seen:
            seen = content
            try:
                settings = load()
                render(settings, out_dir)
            except AegisError as error:
                sys.stderr.write(f"aegis-gateway: the old configuration stays in use: {error.message}\n")
        time.sleep(_INTERVAL_S)


def _sources(settings: GatewaySettings, settings_file: Path | None) -> list[Path]:
    keys = [] if "://" in settings.token.jwks or not settings.token.jwks else [Path(settings.token.jwks)]
    return [settings.identities, *keys, *([settings_file] if settings_file else [])]


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""
