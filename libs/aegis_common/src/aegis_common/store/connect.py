"""Where objects lie: opens a folder or an S3 bucket, with credentials from a file."""

from __future__ import annotations

import configparser
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

from obstore.exceptions import BaseError
from obstore.store import LocalStore, S3Store

from aegis_common.clock import Clock, utc_now
from aegis_common.errors import ConfigurationError

if TYPE_CHECKING:
    from obstore.store import ClientConfig, S3Credential

_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
_CREDENTIALS_AGE: Final = timedelta(minutes=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreOptions:
    """How an S3 bucket is reached; a folder needs none of it.

    Attributes:
        endpoint: URL of an S3-compatible server; empty means AWS. Plain http only on loopback.
        region: Region of the bucket.
        credentials_file: File in AWS's shared-credentials form, read again every minute. Without it, the
            usual sources count (web identity, instance metadata).
        profile: Section of that file.
        ca_bundle: CA certificates for the endpoint, PEM, besides the system's.
        timeout: Longest time for one request; more than zero.
        retries: How often a failed request is tried again; 0 or more.
    """

    endpoint: str = ""
    region: str = "us-east-1"
    credentials_file: Path | None = None
    profile: str = "default"
    ca_bundle: Path | None = None
    timeout: timedelta = timedelta(seconds=30)
    retries: int = 3


def connect(url: str, options: StoreOptions) -> LocalStore | S3Store:
    """Open the store at *url*; `ObjectStore.open` says what is allowed.

    Raises:
        ConfigurationError: The URL or an option is wrong.
    """
    parts = urlsplit(url)
    if parts.query or parts.fragment or parts.username or parts.password:
        raise ConfigurationError("object store URL has more than scheme, place and path; set options apart")
    if parts.scheme == "file":
        return _folder(url, host=parts.netloc, path=unquote(parts.path))
    if parts.scheme == "s3":
        return _bucket(url, bucket=parts.netloc, prefix=unquote(parts.path).strip("/"), options=options)
    raise ConfigurationError(
        f"object store URL {url!r}: the scheme is not supported; use file:///folder or s3://bucket/prefix",
        url=url,
    )


def _folder(url: str, *, host: str, path: str) -> LocalStore:
    if host or not path.startswith("/"):
        raise ConfigurationError(f"object store URL {url!r}: write file:///absolute/folder", url=url)
    try:
        return LocalStore(Path(path), mkdir=True)
    except (BaseError, OSError, ValueError) as error:
        raise ConfigurationError(
            f"object store URL {url!r}: the folder cannot be made or used", url=url
        ) from error


def _bucket(url: str, *, bucket: str, prefix: str, options: StoreOptions) -> S3Store:
    if not bucket:
        raise ConfigurationError(f"object store URL {url!r}: write s3://bucket/prefix", url=url)
    client: ClientConfig = {"timeout": options.timeout, "allow_http": _plain_http(options.endpoint)}
    if options.ca_bundle:
        client["root_certificate"] = _read(options.ca_bundle)
    provider = None
    if options.credentials_file:
        provider = file_credentials(options.credentials_file, options.profile)
        provider()
    try:
        return S3Store(
            bucket,
            prefix=prefix or None,
            endpoint=options.endpoint or None,
            region=options.region,
            client_options=client,
            retry_config={
                "max_retries": options.retries,
                "retry_timeout": options.timeout * (options.retries + 1),
            },
            credential_provider=provider,
        )
    except (BaseError, ValueError) as error:
        raise ConfigurationError(f"object store URL {url!r} cannot be used", url=url) from error


def _plain_http(endpoint: str) -> bool:
    if not endpoint.startswith("http://"):
        return False
    if urlsplit(endpoint).hostname not in _LOOPBACK:
        raise ConfigurationError(
            f"object store endpoint {endpoint!r}: plain http is for loopback only; use https",
            endpoint=endpoint,
        )
    return True


def file_credentials(path: Path, profile: str, *, clock: Clock = utc_now) -> Callable[[], S3Credential]:
    """Return a provider that reads *profile* from *path*, and again once what it read is a minute old.

    The provider raises `ConfigurationError` when the file cannot be read or lacks a value.
    """

    def read() -> S3Credential:
        parser = configparser.ConfigParser(interpolation=None)
        try:
            parser.read_string(_read(path).decode())
            section = parser[profile]
            expires: datetime = clock() + _CREDENTIALS_AGE
            return {
                "access_key_id": section["aws_access_key_id"],
                "secret_access_key": section["aws_secret_access_key"],
                "token": section.get("aws_session_token"),
                "expires_at": expires,
            }
        except (configparser.Error, UnicodeDecodeError) as error:
            raise ConfigurationError(f"credentials file {path} cannot be parsed", path=str(path)) from error
        except KeyError as error:
            raise ConfigurationError(
                f"credentials file {path}, profile {profile!r}: {error.args[0]} is missing",
                path=str(path),
                profile=profile,
            ) from error

    return read


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"file {path}: {error.strerror}", path=str(path)) from error
