"""What every service lets an operator set, and how settings are read: once, frozen, by name or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from aegis_common.errors import ConfigurationError

LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]


def _seconds(value: object) -> object:
    """Take a bare number for seconds; anything else is ISO 8601, which pydantic reads or refuses."""
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        return value


Seconds = Annotated[timedelta, BeforeValidator(_seconds)]
"""A time: seconds (`10`, `0.5`) or ISO 8601 (`PT5M`)."""


class TlsSettings(BaseModel):
    """Files that prove who this process is; something else writes them, and changes are picked up."""

    model_config = {"frozen": True, "extra": "forbid"}

    cert: Path
    """Certificate chain, PEM, with one SPIFFE URI SAN and one DNS SAN."""
    key: Path
    """Private key, PEM."""
    bundle: Path
    """Trusted CA certificates, PEM."""
    trust_domain: str = "aegis.local"
    namespace: str = "aegis"


class TokenSettings(BaseModel):
    """Whose tokens are accepted, and where in them roles and tenant stand."""

    model_config = {"frozen": True, "extra": "forbid"}

    issuer: str = ""
    """Issuer (`iss`) of accepted tokens; if empty, `OIDC_ISSUER`. Without either, no token is accepted."""
    audience: str = "aegis"
    jwks: str = ""
    """Path or https URL of the issuer's key set."""
    jwks_bundle: Path | None = None
    """CA certificates for an https URL; the system's if omitted."""
    roles_claim: str = "roles"
    """Dotted path of the claim that lists roles, for example `realm_access.roles`."""
    tenant_claim: str = "tenant"
    refresh: Seconds = Field(default=timedelta(seconds=60), gt=timedelta(0))
    """How often the key set is read again."""
    max_stale: Seconds = Field(default=timedelta(hours=24), gt=timedelta(0))
    """How long keys stay in use when the issuer cannot be reached."""


class ProcessSettings(BaseSettings):
    """What every process of the mesh lets an operator set, whether or not it serves calls."""

    model_config = SettingsConfigDict(env_nested_delimiter="__", frozen=True, extra="forbid")

    original_variables: ClassVar[Mapping[str, str]] = {"LOG_LEVEL": "log_level"}
    """Variables without a prefix, and the fields that they set when the prefixed variable does not."""

    ops_listen: str = "127.0.0.1:0"
    """Address of the metrics and readiness port (plain HTTP); keep it on loopback or in the pod."""
    tls: TlsSettings
    otlp_endpoint: str = ""
    """OpenTelemetry collector, for example `https://collector:4317`; empty sends nothing."""
    log_level: LogLevel = "INFO"
    """Also `LOG_LEVEL`."""


class ServiceSettings(ProcessSettings):
    """Base of the Settings of agent, carbon and fl_coordinator; each adds its prefix and its own fields."""

    original_variables: ClassVar[Mapping[str, str]] = {
        **ProcessSettings.original_variables,
        "OIDC_ISSUER": "oidc_issuer",
    }

    listen: str = "127.0.0.1:0"
    """Address of the gRPC port, `host:port`; port 0 picks a free one."""
    token: TokenSettings = TokenSettings()
    oidc_issuer: str = ""
    """Issuer of accepted tokens, when `token.issuer` is not set; also `OIDC_ISSUER`."""
    identities: Path
    """File that maps SPIFFE ids to tenant and roles."""
    instance: str = ""
    """Name of this process in the audit log, stable over restarts; the host's if empty."""
    audit_dir: Path
    """Folder of the audit log; made if absent."""
    audit_key: Path
    """Ed25519 private key, PEM, that signs audit checkpoints."""
    audit_ship_dir: Path | None = None
    """Second place for signed checkpoints. If omitted, they stay beside the log only."""
    drain: Seconds = Field(default=timedelta(seconds=10), ge=timedelta(0))
    """How long running calls may go on after SIGTERM."""
    max_connection_age: Seconds = Field(default=timedelta(minutes=10), gt=timedelta(0))
    """Connections are closed after this time, so that an expired certificate does not live on in one."""
    max_message_bytes: int = Field(default=9 << 20, ge=1 << 10)

    @property
    def issuer(self) -> str:
        return self.token.issuer or self.oidc_issuer


S = TypeVar("S", bound=ProcessSettings)


def load(settings: type[S]) -> S:
    """Read *settings* from the environment.

    Raises:
        ConfigurationError: Names each variable that is missing, wrong, or unknown under the service's prefix.
    """
    prefix = str(settings.model_config["env_prefix"])
    environment = dict(os.environ)  # noqa: TID251  # the one place that reads it
    originals = {
        field: name
        for name, field in settings.original_variables.items()
        if name in environment and (prefix + field).upper() not in environment
    }
    faults = _unknown(settings, prefix, environment)
    try:
        values: dict[str, Any] = {field: environment[name] for field, name in originals.items()}
        result = settings(**values)
    except ValidationError as error:
        faults += [f"{_variable(prefix, e['loc'], originals)}: {e['msg']}" for e in error.errors()]
        raise ConfigurationError("settings are wrong:\n  " + "\n  ".join(faults)) from error
    except SettingsError as error:
        raise ConfigurationError(
            f"settings are wrong:\n  {prefix}*: {error}; lists and mappings are JSON"
        ) from error
    if faults:
        raise ConfigurationError("settings are wrong:\n  " + "\n  ".join(faults))
    return result


def _unknown(settings: type[ProcessSettings], prefix: str, environment: Mapping[str, str]) -> list[str]:
    known = {(prefix + name).upper() for name in settings.model_fields}
    return [
        f"{name}: unknown setting"
        for name in sorted(environment)
        if name.upper().startswith(prefix.upper()) and name.upper().split("__", 1)[0] not in known
    ]


def _variable(prefix: str, location: tuple[int | str, ...], originals: Mapping[str, str]) -> str:
    name = originals.get(str(location[0]))
    return name or prefix + "__".join(str(part) for part in location).upper()
