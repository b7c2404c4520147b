"""The state directory: what lies where, who holds it, and what a dead holder left."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from aegis_common.errors import ConfigurationError
from aegis_common.files import write_atomic
from aegis_local.errors import AlreadyRunning, NotRunning
from aegis_local.supervisor.processes import kill_stack

SCHEMA_VERSION: Final = 1
DEFAULT_DIR: Final = Path(".aegis")
_MAX_SOCKET_PATH: Final = 100  # the kernel allows 107
_LONGEST_SOCKET: Final = "t/pymp-01234567/listener-01234567"
_PRIVATE: Final = 0o700


@dataclass(frozen=True, slots=True)
class StateDir:
    """Paths below one state directory.

    `ca`, `keys`, `issuer`, `store`, `data` and `audit` persist; `run` lives as long as the stack does.
    """

    root: Path

    @classmethod
    def at(cls, path: Path) -> StateDir:
        return cls(path.expanduser().resolve())

    @property
    def stack(self) -> str:
        """The mark that every process of the stack carries."""
        return str(self.root)

    @property
    def ca(self) -> Path:
        return self.root / "ca"

    @property
    def keys(self) -> Path:
        return self.root / "keys"

    @property
    def issuer(self) -> Path:
        return self.root / "issuer"

    @property
    def store(self) -> Path:
        return self.root / "store"

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def audit(self) -> Path:
        return self.root / "audit"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def run(self) -> Path:
        """Rendered configuration and the stack's status; removed when it stops."""
        return self.root / "run"

    @property
    def identities(self) -> Path:
        return self.root / "identities.json"

    @property
    def worker_policy(self) -> Path:
        """Which workers may bring which tools."""
        return self.root / "worker-policy.json"

    @property
    def profiles(self) -> Path:
        return self.root / "profiles.toml"

    @property
    def status(self) -> Path:
        return self.run / "status.json"

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def sockets(self) -> Path:
        """Folder of unix sockets: in `run`, or a private temporary one where that path is too long."""
        inside = self.run / "s"
        if len(os.fsencode(inside / _LONGEST_SOCKET)) <= _MAX_SOCKET_PATH:
            return inside
        digest = hashlib.sha256(os.fsencode(self.root)).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"aegis-{os.getuid()}-{digest}"

    @property
    def temporary(self) -> Path:
        """Folder of the children's temporary files; goes with the sockets."""
        return self.sockets / "t"

    def prepare(self) -> None:
        """Make the folders, private to the user.

        Raises:
            ConfigurationError: They cannot be made, or the folder of the sockets is somebody else's.
        """
        with self._usable():
            transient = (self.run, self.sockets, self.temporary)
            for folder in (self.root, *transient, self.logs, self.data, self.store, self.audit):
                folder.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
                folder.chmod(_PRIVATE)
        if self.sockets.is_symlink() or self.sockets.stat().st_uid != os.getuid():
            raise ConfigurationError(f"{self.sockets} is not ours; remove it", path=str(self.sockets))

    def prepare_logs(self) -> None:
        """Make the folder of the logs.

        Raises:
            ConfigurationError: It cannot be made.
        """
        with self._usable():
            self.logs.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)

    @contextmanager
    def _usable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ConfigurationError(
                f"state directory {self.root} cannot be used: {error.strerror}; choose one with --state-dir",
                path=str(self.root),
            ) from error

    def remove_transient(self) -> None:
        """Remove what must not outlive the stack."""
        shutil.rmtree(self.sockets, ignore_errors=True)
        shutil.rmtree(self.run, ignore_errors=True)
        self.profiles.unlink(missing_ok=True)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the state directory for one stack; clean up what a dead holder left.

        Raises:
            AlreadyRunning: A live process holds it; names that process.
            ConfigurationError: The folder cannot be made.
        """
        with self._usable():
            self.root.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
        with self.lock.open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise AlreadyRunning(
                    f"a stack is running on {self.root} already (pid {self.holder() or 'unknown'}); "
                    "see `aegis status`, stop it with `aegis down`, or start a second one with "
                    "--state-dir DIR --port-base 0",
                    state_dir=str(self.root),
                ) from error
            self._clean_stale()
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            try:
                yield
            finally:
                self.remove_transient()
                file.truncate(0)

    def holder(self) -> int | None:
        """Return the process that runs a stack on this directory, or None."""
        try:
            with self.lock.open("r+") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    text = file.read().strip()
                    return int(text) if text.isdecimal() else None
        except FileNotFoundError:
            pass
        return None

    def _clean_stale(self) -> None:
        kill_stack(self.stack)
        self.remove_transient()

    def write_status(self, status: dict[str, Any]) -> None:
        record = {"schema_version": SCHEMA_VERSION, **status}
        write_atomic(self.status, json.dumps(record, indent=1).encode())

    def read_status(self) -> dict[str, Any]:
        """Return the running stack's status record.

        Raises:
            NotRunning: No stack runs here.
            ConfigurationError: The record has a schema version that this version does not know.
        """
        try:
            record = json.loads(self.status.read_text()) if self.holder() else None
        except (OSError, ValueError):
            record = None
        if not isinstance(record, dict):
            raise NotRunning(
                f"no stack is running on {self.root}; start one with `aegis up`", state_dir=str(self.root)
            )
        if record.get("schema_version") != SCHEMA_VERSION:
            raise ConfigurationError(
                f"{self.status} has schema version {record.get('schema_version')}; this version reads "
                f"{SCHEMA_VERSION}: stop the stack with the version that started it",
                path=str(self.status),
            )
        return record
