"""Channels to the gateway: TLS always, opened when first needed, replaced when a certificate file changes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, TypeVar

import grpc

from aegis_client.errors import ProfileError, UsageError
from aegis_client.profiles import Profile
from aegis_client.trace import traceparent

C = TypeVar("C")
Options = Sequence[tuple[str, str | int]]
Metadata = tuple[tuple[str, str], ...]

_MAX_MESSAGE_BYTES: Final = 16 << 20
_OPTIONS: Final[Options] = (
    # Retries are ours alone: they know the descriptor and the deadline.
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.primary_user_agent", "aegis-client"),
)


@dataclass(slots=True, eq=False)
class Lease(Generic[C]):
    """A channel and how many calls use it."""

    channel: C
    users: int = 0
    stale: bool = False


class Connection(Generic[C]):
    """Hands out the channel for each call, with the credentials that lie in the files now."""

    def __init__(
        self, profile: Profile, open_channel: Callable[[str, grpc.ChannelCredentials, Options], C]
    ) -> None:
        self.profile = profile
        self._open = open_channel
        self._lock = threading.Lock()
        self._current: Lease[C] | None = None
        self._print: object = None
        self._closed = False

    def acquire(self) -> tuple[Lease[C], C | None]:
        """Return a lease for one call, and a channel that is to be closed now, if there is one.

        Raises:
            ProfileError: A certificate or key file cannot be read, and there is no channel yet.
            UsageError: The client is closed.
        """
        with self._lock:
            if self._closed:
                raise UsageError("the client is closed")
            idle = self._renew()
            lease = self._current
            if lease is None:
                raise ProfileError(f"{self.profile.address}: no channel")
            lease.users += 1
            return lease, idle

    def release(self, lease: Lease[C]) -> C | None:
        """Give a lease back, and return its channel when that is to be closed now."""
        with self._lock:
            lease.users -= 1
            return lease.channel if lease.stale and not lease.users else None

    def shut(self) -> C | None:
        """Refuse further calls, and return the channel to close."""
        with self._lock:
            self._closed = True
            lease, self._current = self._current, None
            return lease.channel if lease else None

    def metadata(self, trace_id: str) -> Metadata:
        """Return what every call carries.

        Raises:
            ProfileError: The token file cannot be read or is empty.
        """
        token = self._token()
        trace = ("traceparent", traceparent(trace_id))
        return (trace, ("authorization", f"Bearer {token}")) if token else (trace,)

    def _renew(self) -> C | None:
        """Open a channel where none fits the files; return the old one if nobody uses it."""
        found = tuple(_fingerprint(path) for path in self._files())
        if self._current is not None and found == self._print:
            return None
        try:
            channel = self._open(self.profile.address, self._credentials(), self._options())
        except ProfileError:
            if self._current is None:
                raise
            return None  # files are being replaced just now: the old credentials still hold
        old, self._current, self._print = self._current, Lease(channel), found
        if old is None:
            return None
        old.stale = True
        return old.channel if not old.users else None

    def _files(self) -> list[Path]:
        return [path for path in (self.profile.ca, self.profile.cert, self.profile.key) if path]

    def _credentials(self) -> grpc.ChannelCredentials:
        profile = self.profile
        return grpc.ssl_channel_credentials(
            root_certificates=self._read(profile.ca, "ca"),
            private_key=self._read(profile.key, "key"),
            certificate_chain=self._read(profile.cert, "cert"),
        )

    def _options(self) -> Options:
        name = self.profile.server_name
        return (*_OPTIONS, ("grpc.ssl_target_name_override", name)) if name else _OPTIONS

    def _token(self) -> str:
        if not self.profile.token_file:
            return self.profile.token
        token = (self._read(self.profile.token_file, "token_file") or b"").decode("ascii", "replace").strip()
        if not token:
            raise ProfileError(f"token_file {self.profile.token_file} is empty{self.profile.place}")
        return token

    def _read(self, path: Path | None, key: str) -> bytes | None:
        if path is None:
            return None
        try:
            return path.read_bytes()
        except OSError as error:
            raise ProfileError(
                f"{key} {path} cannot be read: {error.strerror}{self.profile.place}"
            ) from error


def _fingerprint(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
