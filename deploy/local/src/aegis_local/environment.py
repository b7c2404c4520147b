"""The environment that children get: little, and the settings that the user gave `aegis up`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

_PASSED_ON: Final = frozenset(
    {
        "CARBON_API_KEY",
        "CARBON_API_URL",
        "CARBON_CACHE_TTL",
        "CARBON_INTENSITY_THRESHOLD",
        "FLOWER_MIN_CLIENTS",
        "FLOWER_NUM_ROUNDS",
        "LOG_LEVEL",
        "HOME",
        "HTTPS_PROXY",
        "NO_PROXY",
        "SSL_CERT_DIR",
        "SSL_CERT_FILE",
        "TZ",
    }
)


def base_environment() -> dict[str, str]:
    """Return what every child gets: the programs of this installation first on PATH, and UTF-8."""
    given = {name: value for name, value in os.environ.items() if name in _PASSED_ON}  # noqa: TID251  # passed on
    return {
        **given,
        "PATH": os.pathsep.join([str(scripts()), os.defpath]),
        "LC_ALL": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",
    }


def overrides(prefix: str) -> dict[str, str]:
    """Return the variables under a service's prefix, so that a user can set any of its settings."""
    return {name: value for name, value in os.environ.items() if name.startswith(prefix)}  # noqa: TID251  # passed on


def scripts() -> Path:
    """Return the folder of the console scripts of this installation."""
    return Path(sys.executable).parent
