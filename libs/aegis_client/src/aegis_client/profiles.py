"""Profiles: where the services are and how to prove who calls, read from a TOML file."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from aegis_client.errors import ProfileError

SCHEMA_VERSION: Final = 1
FILE_VARIABLE: Final = "AEGIS_PROFILE_FILE"
NAME_VARIABLE: Final = "AEGIS_PROFILE"
_TOP_KEYS: Final = {"schema_version", "default", "profiles"}
_PATHS: Final = ("ca", "cert", "key", "token_file")


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """How to reach one deployment. People bring a token, machines a certificate.

    Attributes:
        address: `host:port` of the gateway; a leading `https://` is dropped.
        ca: Trusted CA certificates, PEM; if omitted, the public ones.
        cert: Client certificate chain, PEM; needs `key`.
        key: Private key of `cert`, PEM.
        server_name: Name that the server's certificate must carry, if not the host of `address`.
        token_file: File with a bearer token; read again when it changes.
        token: The bearer token itself; prefer `token_file`.
        name: Name of the profile in its file, or empty.
        source: The file that it was read from, or None.
    """

    address: str
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    server_name: str = ""
    token_file: Path | None = None
    token: str = ""
    name: str = ""
    source: Path | None = None

    def __post_init__(self) -> None:
        address = self.address.removeprefix("https://").rstrip("/")
        host, _, port = address.rpartition(":")
        if not host or "/" in host or not port.isdecimal():
            raise ProfileError(
                f"address {self.address!r} is not host:port; for example localhost:8443{self.place}"
            )
        object.__setattr__(self, "address", address)
        if (self.cert is None) != (self.key is None):
            raise ProfileError(f"cert and key belong together; only one is set{self.place}")
        if self.token and self.token_file:
            raise ProfileError(f"token and token_file exclude each other; both are set{self.place}")

    def __repr__(self) -> str:
        return f"Profile({self.address!r}, name={self.name!r})"

    @property
    def place(self) -> str:
        """Where the profile stands, for messages; empty for one made in code."""
        return f" (profile {self.name!r} of {self.source})" if self.source else ""


def default_places() -> list[Path]:
    """Return the files that are looked for, in order, when none is named."""
    return [Path(".aegis/profiles.toml"), Path("~/.config/aegis/profiles.toml").expanduser()]


def load_profile(name: str | None = None, *, file: Path | str | None = None) -> Profile:
    """Return a profile.

    Args:
        name: Which one; if None, `$AEGIS_PROFILE`, then the file's `default`, then its only one.
        file: The file; if None, `$AEGIS_PROFILE_FILE`, then `./.aegis/profiles.toml`, then
            `~/.config/aegis/profiles.toml`.

    Raises:
        ProfileError: There is no such file or profile, or it has an unknown or bad key.
    """
    path = find_file(file)
    profiles, default = read_profiles(path)
    wanted = (
        name or _variable(NAME_VARIABLE) or default or (next(iter(profiles)) if len(profiles) == 1 else "")
    )
    if wanted in profiles:
        return profiles[wanted]
    known = ", ".join(sorted(profiles)) or "none"
    if not wanted:
        raise ProfileError(f"{path} has several profiles and no `default`; name one of: {known}")
    raise ProfileError(f"there is no profile {wanted!r} in {path}; it has: {known}")


def find_file(file: Path | str | None = None) -> Path:
    """Return the profile file to read.

    Raises:
        ProfileError: None of the places has one; the message names them.
    """
    named = file or _variable(FILE_VARIABLE)
    if named:
        return Path(named).expanduser()
    places = default_places()
    for place in places:
        if place.is_file():
            return place
    raise ProfileError(
        f"there is no profile file; looked for {' and '.join(str(place) for place in places)}. "
        f"Start a stack here with `aegis up`, or name a file with --profile-file or ${FILE_VARIABLE}"
    )


def read_profiles(path: Path) -> tuple[dict[str, Profile], str]:
    """Return the profiles of a file by name, and the name of the default one or an empty string.

    Relative paths in the file start at the file's folder.

    Raises:
        ProfileError: The file cannot be read, is not TOML, or has an unknown or bad key.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ProfileError(f"profile file {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ProfileError(f"profile file {path} is not TOML: {error}") from error
    _refuse_unknown(data, _TOP_KEYS, str(path))
    version = data.get("schema_version", SCHEMA_VERSION)
    if version != SCHEMA_VERSION:
        raise ProfileError(f"{path} has schema_version {version!r}; this client knows {SCHEMA_VERSION}")
    default, entries = data.get("default", ""), data.get("profiles", {})
    if not isinstance(default, str) or not isinstance(entries, dict):
        raise ProfileError(f"{path}: `default` must be a name and `profiles` a table")
    return {name: _profile(name, entry, path) for name, entry in entries.items()}, default


def write_profiles(path: Path, profiles: Mapping[str, Profile], *, default: str = "") -> None:
    """Write a profile file in one step, readable by its owner only; paths are written as they are."""
    lines = [f"schema_version = {SCHEMA_VERSION}"]
    if default:
        lines.append(f"default = {json.dumps(default)}")
    for name, profile in profiles.items():
        lines += ["", f"[profiles.{json.dumps(name)}]"]
        for key in _KEYS:
            value = getattr(profile, key)
            if value:
                # A JSON string of text without control characters is a TOML basic string too.
                lines.append(f"{key} = {json.dumps(str(value), ensure_ascii=False)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.new")
    draft.touch(mode=0o600)
    draft.write_text("\n".join(lines) + "\n", encoding="utf-8")
    draft.replace(path)


_KEYS: Final = tuple(field.name for field in fields(Profile) if field.name not in {"name", "source"})


def _profile(name: str, entry: object, path: Path) -> Profile:
    where = f"{path}, profile {name!r}"
    if not isinstance(entry, dict):
        raise ProfileError(f"{where}: must be a table")
    _refuse_unknown(entry, set(_KEYS), where)
    for key, value in entry.items():
        if not isinstance(value, str):
            raise ProfileError(f"{where}: {key} must be a string, not {value!r}")
    if not entry.get("address"):
        raise ProfileError(f'{where}: address is missing; for example address = "localhost:8443"')
    texts = {key: value for key, value in entry.items() if key not in _PATHS}
    files: dict[str, Any] = {
        key: path.parent / Path(entry[key]).expanduser() for key in _PATHS if entry.get(key)
    }
    return Profile(**texts, **files, name=name, source=path)


def _refuse_unknown(data: Mapping[str, object], known: set[str], where: str) -> None:
    unknown = sorted(set(data) - known)
    if unknown:
        raise ProfileError(f"{where}: unknown key {unknown[0]!r}; known are {', '.join(sorted(known))}")


def _variable(name: str) -> str:
    return os.environ.get(name, "")  # noqa: TID251  # the one place of the client that reads it
