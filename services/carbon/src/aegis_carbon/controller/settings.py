"""Everything an operator can set for the controller, read once at start-up from AEGIS_CONTROLLER_*."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, ClassVar, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field
from pydantic_settings import SettingsConfigDict

from aegis_common.auth.principal import checked_tenant
from aegis_common.errors import ConfigurationError, Unauthenticated
from aegis_common.files import read_file
from aegis_common.settings import ProcessSettings, Seconds

_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})
_NAME: Final = r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$"


def _tenants(names: dict[str, str]) -> dict[str, str]:
    for namespace, tenant in names.items():
        try:
            checked_tenant(tenant)
        except Unauthenticated as error:
            raise ValueError(f"{namespace}: {error.message}") from None
    return names


class ControllerSettings(ProcessSettings):
    """Settings of `aegis-carbon-controller`. Times: seconds, or ISO 8601 (`PT5M`)."""

    model_config = SettingsConfigDict(
        env_prefix="AEGIS_CONTROLLER_", env_nested_delimiter="__", frozen=True, extra="forbid"
    )
    original_variables: ClassVar[Mapping[str, str]] = {
        **ProcessSettings.original_variables,
        "KUBERNETES_SERVICE_HOST": "kubernetes_host",
        "KUBERNETES_SERVICE_PORT": "kubernetes_port",
    }

    cluster: str = Field(pattern=_NAME)
    """Name of this cluster; no other cluster of the same tenants may have it: it tells whose a reservation
    is."""
    namespaces: Annotated[dict[str, str], AfterValidator(_tenants)] = Field(min_length=1)
    """Tenant by namespace, as JSON: `{"team-a": "a"}`; `*` is every other namespace. Without `*`, only the
    named ones are watched."""
    carbon: str = Field(pattern=r"^.+:\d{1,5}$")
    """Address of the carbon service, `host:port`."""

    api_server: str = Field(default="", pattern=r"^(https?://.+)?$")
    """URL of the API server; if empty, that of the cluster it runs in (`KUBERNETES_SERVICE_HOST`)."""
    kubernetes_host: str = ""
    """Also `KUBERNETES_SERVICE_HOST`, which the kubelet sets."""
    kubernetes_port: int = Field(default=443, ge=1, le=65535)
    """Also `KUBERNETES_SERVICE_PORT`."""
    api_ca: Path = _ACCOUNT / "ca.crt"
    """CA certificates of the API server, PEM."""
    api_token: Path = _ACCOUNT / "token"
    """File with the token of the service account; read again for each call."""

    lease_namespace: str = ""
    """Namespace of the Lease; if empty, that of the pod."""
    lease_name: str = Field(default="aegis-carbon-controller", pattern=_NAME)
    """Name of the Lease by which several controllers agree who leads."""
    lease_duration: Seconds = Field(
        default=timedelta(seconds=15), ge=timedelta(seconds=1), le=timedelta(minutes=5)
    )
    """How long a leader that is gone is waited for."""

    poll: Seconds = Field(default=timedelta(seconds=10), gt=timedelta(0), le=timedelta(minutes=5))
    """How often the carbon service is asked for news."""
    pod_start: Seconds = Field(default=timedelta(seconds=60), ge=timedelta(0), le=timedelta(hours=1))
    """Time from a resume until the work goes on (scheduling, images): kept free before each deadline, and
    not counted as work."""
    grace: Seconds = Field(default=timedelta(seconds=60), ge=timedelta(0), le=timedelta(hours=1))
    """How long a new Job whose `on-missing` is `run_now` waits for a carbon service that is away."""

    @property
    def server(self) -> str:
        """URL of the API server.

        Raises:
            ConfigurationError: None is set, and this is no pod; or the token would go over a network in
                clear.
        """
        if self.api_server:
            parts = urlsplit(self.api_server)
            if parts.scheme != "https" and parts.hostname not in _LOOPBACK:
                raise ConfigurationError(
                    f"AEGIS_CONTROLLER_API_SERVER {self.api_server!r}: write https://; plain http is for "
                    "loopback only",
                    api_server=self.api_server,
                )
            return self.api_server
        if not self.kubernetes_host:
            raise ConfigurationError(
                "no API server: set AEGIS_CONTROLLER_API_SERVER, or run in a pod (KUBERNETES_SERVICE_HOST)"
            )
        host = f"[{self.kubernetes_host}]" if ":" in self.kubernetes_host else self.kubernetes_host
        return f"https://{host}:{self.kubernetes_port}"

    @property
    def home(self) -> str:
        """Namespace of the Lease.

        Raises:
            ConfigurationError: None is set, and this is no pod.
        """
        if self.lease_namespace:
            return self.lease_namespace
        try:
            return read_file(_ACCOUNT / "namespace", "namespace of the pod").decode().strip()
        except ConfigurationError as error:
            raise ConfigurationError(
                f"no namespace for the Lease: set AEGIS_CONTROLLER_LEASE_NAMESPACE ({error.message})"
            ) from error
