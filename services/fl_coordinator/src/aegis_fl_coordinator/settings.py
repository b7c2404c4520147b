"""What an operator of the coordinator can set."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Final

from pydantic import AliasChoices, Field
from pydantic_settings import SettingsConfigDict

from aegis_common.settings import Seconds, ServiceSettings, TlsSettings

_PREFIX: Final = "AEGIS_FL_COORDINATOR_"


class Settings(ServiceSettings):
    """Settings of the coordinator; each is `AEGIS_FL_COORDINATOR_<NAME>`."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX)

    data_dir: Path
    """Folder on the volume: `runs.db` (SQLite) and `runs/` (a private folder per run)."""
    superlink: str
    """`host:port` of SuperLink; keep it on loopback or in the pod, for its Control API trusts everybody."""
    superlink_ca: Path
    """CA of SuperLink's certificate, PEM."""
    serverapp_tls: TlsSettings
    """Certificate of account `fl-serverapp`, with which training apps call back."""
    advertise: str = ""
    """`host:port` at which training apps reach this process; if empty, the address it listens on."""
    carbon: str
    """`host:port` of the carbon service."""
    agent: str
    """`host:port` of the agent that serves the models, or a gRPC target of several (`ipv4:A:1,B:1`)."""
    model_store: str
    """URL of the model store: `file:///folder` or `s3://bucket/prefix`."""
    model_store_endpoint: str = ""
    """URL of an S3-compatible server; empty means AWS."""
    model_store_region: str = "us-east-1"
    model_store_credentials: Path | None = None
    """File in AWS's shared-credentials form; without it, the usual sources count."""
    signing_key: Path
    """Ed25519 private key, PEM, that signs model manifests."""
    app_dirs: tuple[Path, ...] = ()
    """Flower app folders besides the bundled ones; the name of a folder is the app's name."""
    approved_apps: tuple[str, ...] = ()
    """SHA-256 digests, 64 hex digits, of app bundles that may run for every tenant, as the bundled may."""
    zone: str = Field(default="", pattern="^(zones/[A-Za-z0-9][A-Za-z0-9_-]{0,62})?$")
    """Grid zone of this machine, `zones/{zone}`; empty means the carbon service's default."""
    watts: float = Field(default=0.0, ge=0, le=10_000_000)
    """Power that this machine draws for a run; 0 when it is not known."""
    usage_interval: Seconds = Field(default=timedelta(seconds=10), gt=timedelta(0))
    """Pause between two reports of what rounds used to the carbon ledger."""
    num_rounds: int = Field(
        default=10,
        ge=1,
        le=10_000,
        validation_alias=AliasChoices("num_rounds", f"{_PREFIX}NUM_ROUNDS", "FLOWER_NUM_ROUNDS"),
    )
    """Rounds of a run that names none."""
    min_clients: int = Field(
        default=3,
        ge=1,
        le=10_000,
        validation_alias=AliasChoices("min_clients", f"{_PREFIX}MIN_CLIENTS", "FLOWER_MIN_CLIENTS"),
    )
    """Nodes that a round needs when the run names none."""
    run_retention: Seconds = Field(
        default=timedelta(days=90), ge=timedelta(minutes=1), le=timedelta(days=3650)
    )
    """How long a run is kept after its end when it does not say so itself."""
    in_process: bool = False
    """True allows runs in process: their apps run as this process's user. For development and benches."""
    look: Seconds = Field(default=timedelta(seconds=1), gt=timedelta(0))
    """How often a run's state is read from Flower."""

    @property
    def runs_dir(self) -> Path:
        """Folder of the runs' private folders: what training apps see of the volume."""
        return self.data_dir / "runs"
