"""What differs from one deployment of the gateway to the next; everything else stands in the YAML."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import yaml
from pydantic import AfterValidator, BaseModel, Field, ValidationError, model_validator

from aegis_common.errors import ConfigurationError
from aegis_common.settings import TlsSettings, TokenSettings

_ADDRESS: Final = re.compile(r"(?:\[([0-9A-Fa-f:]+)\]|([A-Za-z0-9._-]+)):(\d{1,5})")
_ENDPOINT: Final = re.compile(r"(https?)://([^/]+?)(?::(\d{1,5}))?/?")
_PORTS: Final = {"http": 80, "https": 443}


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of `host:port` or `[ipv6]:port`.

    Raises:
        ValueError: It is not of that form, or the port is not 1 to 65535.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None or not 0 < int(match[3]) < 1 << 16:
        raise ValueError(f"{address!r} is not host:port with a port from 1 to 65535")
    return match[1] or match[2], int(match[3])


def split_endpoint(endpoint: str) -> tuple[str, str, int]:
    """Return scheme, host and port of `http://host:port` or `https://host[:port]`.

    Raises:
        ValueError: It is not of that form.
    """
    match = _ENDPOINT.fullmatch(endpoint)
    if match is None:
        raise ValueError(f"{endpoint!r} is not http(s)://host[:port]")
    return match[1], match[2], int(match[3] or _PORTS[match[1]])


def _address(value: str) -> str:
    split_address(value)
    return value


def _addresses(value: str) -> str:
    for address in value.split(","):
        split_address(address.strip())
    return value


def _endpoint(value: str) -> str:
    if value:
        split_endpoint(value)
    return value


Address = Annotated[str, AfterValidator(_address)]
Addresses = Annotated[str, AfterValidator(_addresses)]


class GatewaySettings(BaseModel):
    """Settings of one gateway. Relative paths are relative to the current directory."""

    model_config = {"frozen": True, "extra": "forbid"}

    machines_listen: Address = "127.0.0.1:8443"
    """Address of the listener that requires a client certificate of the trust domain, `host:port`."""
    people_listen: Address = "127.0.0.1:8444"
    """Address of the listener for people and browsers: TLS without client certificate, bearer tokens only."""
    ops_listen: Address = "127.0.0.1:8445"
    """Address of the metrics and readiness listener (plain HTTP); keep it on loopback or in the pod."""
    tls: TlsSettings
    """The gateway's own certificate, used as server and as client, and the CA bundle that all peers need."""
    identities: Path
    """File that maps SPIFFE ids to tenant and roles; it decides which machine may call what."""
    token: TokenSettings = TokenSettings()
    """Whose tokens are accepted. Without an issuer none is."""
    agent: Addresses
    """Addresses of the agent service, `host:port`, several with commas."""
    agent_http: Addresses | None = None
    """Addresses of the agent's HTTP listener; if omitted, `/mcp` and `/v2/` are not routed."""
    public_url: Annotated[str, AfterValidator(_endpoint)] = ""
    """Where clients reach the gateway, `https://host[:port]`; MCP hosts then learn where to get a token."""
    mcp_scopes: tuple[str, ...] = ()
    """Scopes that MCP hosts ask the issuer for; if empty, they choose."""
    carbon: Addresses
    """Addresses of the carbon service."""
    fl_coordinator: Addresses
    """Addresses of the fl_coordinator service."""
    fl_edge: Addresses | None = None
    """Addresses of the Envoy in front of SuperLink; if omitted, `/v1/fleet/` is not routed."""
    cors_origins: tuple[str, ...] = ()
    """Origins whose pages may call the API from a browser, for example `https://console.example.org`."""
    otlp_endpoint: Annotated[str, AfterValidator(_endpoint)] = ""
    """OpenTelemetry collector (gRPC), for example `https://collector:4317`; empty sends nothing."""
    trace_percent: float = Field(default=10.0, ge=0, le=100)
    """Share of the requests without `traceparent` that are sampled, in percent."""
    requests_per_second: int = Field(default=500, ge=1)
    """Requests that one subject or one client certificate may make per second and gateway, lasting."""
    request_burst: int = Field(default=1000, ge=1)
    """Requests that one subject or one client certificate may make at once."""
    max_json_bytes: int = Field(default=2 << 20, ge=1 << 10, le=64 << 20)
    """Largest HTTP body of most methods, in bytes."""
    max_inline_json_bytes: int = Field(default=12 << 20, ge=1 << 10, le=64 << 20)
    """Largest HTTP body of methods that take raw bytes, in bytes: 8 MiB are 11.2 MiB in base64."""
    max_raw_bytes: int = Field(default=1 << 30, ge=1 << 10)
    """Largest HTTP body that is content itself (uploads of artifacts), in bytes; it passes as it comes."""
    max_connections: int = Field(default=10_000, ge=1)
    """Most client connections at once."""
    max_heap_bytes: int = Field(default=1 << 30, ge=64 << 20)
    """Memory above which Envoy refuses new requests, in bytes."""
    admin_socket: Path | None = None
    """Unix socket of Envoy's admin interface; if omitted, `admin.sock` beside the rendered files."""

    @model_validator(mode="after")
    def _check(self) -> GatewaySettings:
        if self.token.issuer and not self.token.jwks:
            raise ValueError(
                "token.issuer is set but token.jwks is not: name the key set's file or https URL"
            )
        if self.token.jwks.startswith("http://"):
            raise ValueError(
                "token.jwks must be a file or an https URL: whoever changes the keys is the issuer"
            )
        if self.request_burst < self.requests_per_second:
            raise ValueError("request_burst is below requests_per_second")
        if self.public_url and not self.public_url.startswith("https://"):
            raise ValueError(f"public_url {self.public_url!r} is not https")
        listeners = [self.machines_listen, self.people_listen, self.ops_listen]
        if len(set(listeners)) < len(listeners):
            raise ValueError(f"two listeners share an address: {', '.join(listeners)}")
        return self


def load_settings(file: Path | None, overrides: Sequence[str] = ()) -> GatewaySettings:
    """Read settings from a YAML or JSON file; *overrides* are `name=value`, nested names with dots.

    Raises:
        ConfigurationError: Names each setting that is missing, wrong or unknown, or why the file cannot
            be read.
    """
    values = _read(file) if file else {}
    for override in overrides:
        name, sign, text = override.partition("=")
        if not sign:
            raise ConfigurationError(f"--set {override!r} is not name=value", setting=override)
        _put(values, name.split("."), yaml.safe_load(text) if text else "")
    try:
        return GatewaySettings.model_validate(values)
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, e['loc'])) or 'settings'}: {e['msg']}" for e in error.errors()]
        raise ConfigurationError("gateway settings are wrong:\n  " + "\n  ".join(faults)) from error


def _read(file: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise ConfigurationError(f"settings file {file} cannot be read: {error}", file=str(file)) from error
    if not isinstance(values, dict):
        raise ConfigurationError(f"settings file {file} holds no mapping of names to values", file=str(file))
    return values


def _put(values: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for name in path[:-1]:
        inner = values.setdefault(name, {})
        if not isinstance(inner, dict):
            raise ConfigurationError(f"setting {'.'.join(path)} lies below a plain value", setting=path[0])
        values = inner
    values[path[-1]] = value
