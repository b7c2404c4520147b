"""The catalogue of installed training apps: folders that the operator names, and those that ship."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable
from pathlib import Path

from aegis_common.errors import ConfigurationError
from aegis_fl_coordinator.adapters.flower_control import app_config, build_bundle
from aegis_fl_coordinator.apps import BUNDLED
from aegis_fl_coordinator.domain.errors import BrokenApp, UnknownApp
from aegis_fl_coordinator.domain.ports import AppBundle
from aegis_fl_coordinator.domain.training import RESERVED_KEYS


class FolderCatalogue:
    """Apps by the name of their folder, built once each. Thread-safe.

    Args:
        folders: App folders of the operator; the bundled ones are always there.
        approved: SHA-256 digests, hex, of bundles that the operator approved for all tenants.

    Raises:
        ConfigurationError: A folder is no app, or its name is taken.
    """

    def __init__(self, folders: Iterable[Path] = (), *, approved: Iterable[str] = ()) -> None:
        self._bundled = {path.parent.name: path.parent for path in BUNDLED.glob("*/pyproject.toml")}
        self._folders = dict(self._bundled)
        for folder in folders:
            if folder.name in self._folders:
                raise ConfigurationError(f"app folder {folder}: the name {folder.name!r} is taken")
            app_config(folder)
            self._folders[folder.name] = folder
        self._approved = frozenset(approved)
        self._built: dict[str, AppBundle] = {}
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        return sorted(self._folders)

    def get(self, name: str) -> AppBundle:
        folder = self._folders.get(name)
        if folder is None:
            known = ", ".join(sorted(self._folders))
            raise UnknownApp(f"there is no app {name!r}; installed are {known}", app=name, known=known)
        with self._lock:
            if name not in self._built:
                self._built[name] = _build(name, folder)
            return self._built[name]

    def vetted(self, app: AppBundle) -> bool:
        return app.name in self._bundled or app.sha256 in self._approved


def _build(name: str, folder: Path) -> AppBundle:
    config = app_config(folder)
    missing = RESERVED_KEYS - config.keys()
    if missing:
        raise BrokenApp(
            f"app {name!r} does not declare {', '.join(sorted(missing))} in [tool.flwr.app.config]", app=name
        )
    bundle = build_bundle(folder)
    return AppBundle(name, bundle, hashlib.sha256(bundle).hexdigest(), config)
