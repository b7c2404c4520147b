"""What an operator can set: `AEGIS_AGENT_*`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, Field, SecretStr
from pydantic_settings import SettingsConfigDict

from aegis_common.settings import Seconds, ServiceSettings
from aegis_common.store.connect import StoreOptions

_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})


def _redis_url(url: SecretStr) -> SecretStr:
    if url.get_secret_value() and not url.get_secret_value().startswith(("redis://", "rediss://", "unix://")):
        raise ValueError("does not begin with redis://, rediss:// or unix://")
    return url


def _mcp_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        raise ValueError("is no https URL; plain http is for loopback only")
    return url


def _public_url(url: str) -> str:
    parts = urlsplit(url)
    if url and (parts.scheme != "https" or not parts.hostname or parts.path not in ("", "/")):
        raise ValueError("is not https://host[:port]")
    return url.rstrip("/")


class McpServer(BaseModel):
    """An MCP server elsewhere, and which of its tools are offered."""

    model_config = {"frozen": True, "extra": "forbid"}

    name: str = Field(pattern=r"^[a-z][a-z0-9-]{0,31}$")
    """For logs and messages, and a tag of its tools."""
    url: Annotated[str, AfterValidator(_mcp_url)]
    """Its streamable HTTP endpoint."""
    prefix: str = Field(default="", pattern=r"^([a-z][a-z0-9_.-]{0,31})?$")
    """Put before the name of each of its tools."""
    allow: tuple[str, ...] = Field(min_length=1)
    """Its tools that are offered, by their own names; `*` is all of them."""
    pins: Mapping[str, Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]] = Field(default_factory=dict)
    """Tool to the SHA-256 of its definition, which the log names; a tool with another one is not offered."""
    concurrency: int = Field(default=4, ge=1, le=256)
    """Most calls to it at once."""
    queue_size: int = Field(default=16, ge=0)
    """Most calls of one of its tools that wait."""
    timeout: Seconds = Field(default=timedelta(seconds=60), gt=timedelta(0), le=timedelta(minutes=10))
    """Longest time of a call."""
    token_file: Path | None = None
    """File with a bearer token for it."""
    ca: Path | None = None
    """CA certificates for it, PEM; the system's if omitted."""


class AgentSettings(ServiceSettings):
    """Settings of the agent."""

    # A wrong value may be a secret in the wrong place.
    model_config = SettingsConfigDict(env_prefix="AEGIS_AGENT_", hide_input_in_errors=True)
    original_variables: ClassVar[Mapping[str, str]] = {
        **ServiceSettings.original_variables,
        "REDIS_URL": "redis_url",
    }

    http_listen: str = ""
    """Address of the HTTP listener (`/mcp` and `/v2/`), `host:port`; if empty, there is none."""
    public_url: Annotated[str, AfterValidator(_public_url)] = ""
    """Where clients reach the gateway, `https://host[:port]`; MCP hosts learn there how to sign in."""
    http_origins: tuple[str, ...] = ()
    """More origins whose pages may call MCP, besides `public_url`; a JSON list."""
    http_bodies_bytes: int = Field(default=256 << 20, ge=16 << 20)
    """Most bytes of the bodies of all HTTP requests at once, shared fairly; more are refused with 503."""
    http_responses_bytes: int = Field(default=256 << 20, ge=64 << 20)
    """Most bytes of all HTTP responses that clients have yet to read, shared likewise."""
    mcp_servers: tuple[McpServer, ...] = ()
    """MCP servers elsewhere whose tools are offered here; a JSON list."""
    model_store_url: str
    """Where models lie: `file:///folder` or `s3://bucket/prefix`."""
    model_store: StoreOptions = StoreOptions()
    """How an S3 bucket is reached."""
    model_trusted_keys: tuple[Path, ...] = Field(min_length=1)
    """Ed25519 public keys (PEM files, or folders of them) whose signatures on models count; a JSON list."""
    records_key: Path | None = None
    """Ed25519 private key (PEM file), the same for all agents over one model store: it signs the records that
    they write there for one another. Without it there are no publisher keys."""
    records_trusted_keys: tuple[Path, ...] = ()
    """Public keys (PEM files, or folders of them) of earlier `records_key`s whose records still count; a JSON
    list."""
    max_model_bytes: int = Field(default=256 << 20, ge=1)
    """Largest model file that is served."""
    model_quota_bytes: int = Field(default=50 << 30, ge=1)
    """Most bytes of one tenant's model files together; what would go beyond cannot be imported. Imports at
    the same moment may go beyond it together."""
    model_memory_bytes: int = Field(default=2 << 30, ge=1 << 20)
    """Most bytes that all models hold in memory; beyond it the least recently used ones go, and come back
    when they are called."""
    model_threads: int = Field(default=1, ge=1, le=64)
    """Threads of one inference."""
    model_concurrency: int = Field(default=2, ge=1, le=64)
    """Most runs of one model at once; a run may hold the rows of many calls."""
    model_queue_size: int = Field(default=64, ge=0)
    """Most calls of one model that wait."""
    model_timeout: Seconds = Field(default=timedelta(seconds=30), gt=timedelta(0), le=timedelta(minutes=10))
    """Deadline of a model call that brings none."""
    child_memory_bytes: int = Field(default=2 << 30, ge=64 << 20)
    """Address space that one inference process may add; the built-in tools have limits of their own."""
    artifact_store_url: str = ""
    """Where artifacts lie, as `model_store_url`; if empty, in the model store, apart from the models."""
    artifact_store: StoreOptions | None = None
    """How the artifacts' S3 bucket is reached; if omitted, as the models' one."""
    artifact_spool_dir: Path | None = None
    """Folder on a disk where uploads lie until they are complete; if omitted, the system's temporary one.

    It needs room for `max_artifact_bytes` times `artifact_uploads` in the worst case."""
    artifact_uploads: int = Field(default=16, ge=1)
    """Most uploads at once."""
    artifact_retention: Seconds = Field(default=timedelta(days=7), ge=timedelta(seconds=1))
    """How long an artifact is kept if nobody says, in seconds; at most `max_artifact_retention`."""
    max_artifact_retention: Seconds = Field(default=timedelta(days=30), ge=timedelta(seconds=1))
    """Longest time that an artifact may be kept, in seconds."""
    max_artifact_bytes: int = Field(default=1 << 30, ge=1)
    """Largest artifact."""
    artifact_quota_bytes: int = Field(default=10 << 30, ge=1)
    """Most bytes of one tenant's artifacts together; what other replicas add counts some seconds later."""
    artifact_load_bytes: int = Field(default=64 << 20, ge=1)
    """Most bytes that artifacts bring into one call; an `Artifact` parameter gets a handle instead."""
    artifact_sweep: Seconds = Field(default=timedelta(minutes=5), gt=timedelta(0))
    """Pause between two sweeps of what has expired, in seconds."""
    redis_url: Annotated[SecretStr, AfterValidator(_redis_url)] = SecretStr("")
    """Redis that keeps jobs: `appendonly yes`, `appendfsync always`, `maxmemory-policy noeviction`. Replicas
    find each other there. If empty, there are no jobs. Also `REDIS_URL`."""
    job_store_check: Literal["strict", "warn"] = "strict"
    """`warn` takes a Redis that may lose acknowledged jobs, and says so; for tests and development."""
    job_slots: int = Field(default=4, ge=0, le=1000)
    """Most jobs that run at once in this process; with 0 it takes jobs and runs none."""
    job_lease: Seconds = Field(
        default=timedelta(seconds=12), ge=timedelta(seconds=1), le=timedelta(minutes=5)
    )
    """How long a job may go without a sign of life of the process that runs it; the same in all agents."""
    job_retention: Seconds = Field(default=timedelta(days=7), gt=timedelta(0), le=timedelta(days=365))
    """How long an ended job is kept with its result, unless later ones need its place."""
    max_jobs: int = Field(default=100_000, ge=1)
    """Most unfinished jobs of one tenant."""
    max_ended_jobs: int = Field(default=100_000, ge=1)
    """Most ended jobs of one tenant that are kept: beyond it the oldest go before their retention is over."""
    max_job_bytes: int = Field(default=1 << 30, ge=1 << 20)
    """Most bytes of payloads, results and checkpoints of one tenant's jobs. Its oldest ended jobs make room,
    but for those of the last ten minutes; where they cannot, no more jobs are created."""
    carbon: str = ""
    """`host:port` of the carbon service, for jobs with a carbon policy and for its ledger, which learns what
    calls and jobs use."""
    zone: str = Field(default="", pattern=r"^([A-Za-z0-9][A-Za-z0-9_-]{0,62})?$")
    """Grid zone in which this agent runs, for the ledger; if empty, the carbon service's default."""
    usage_interval: Seconds = Field(
        default=timedelta(seconds=15), ge=timedelta(milliseconds=50), le=timedelta(minutes=10)
    )
    """Pause between two reports of what was used to the ledger, in seconds."""
    worker_policy: Path | None = None
    """JSON file that says which workers may bring which tools; without it none may. A changed file counts for
    the next worker that comes."""
    advertise: str = ""
    """`host:port` where other replicas reach this one's gRPC listener. With it and `redis_url`, they use each
    other's workers."""
    tools: tuple[str, ...] = ()
    """More tools: a JSON list of `module:function` or `name=module:function`."""
    tools_dir: Path | None = None
    """Folder of Python files whose `@tool` functions are served; changes count within seconds."""
    tool_files: bool = False
    """Whether admins may add tools of their tenant through the service, as Python files: their code runs in
    child processes of every agent. It needs `records_key`, too."""
    tenant_weights: Mapping[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    """Shares of tenants where calls and jobs wait; a JSON object. A tenant that is not named has 1."""
    child_slots: int | None = Field(default=None, ge=1)
    """Most calls in child processes at once, of all tools together; if omitted, only each tool's bound."""
    cache_bytes: int = Field(default=64 << 20, ge=0)
    """Bound on the results of cacheable tools that are kept; 0 keeps none."""
    plugins: bool = True
    """Whether installed packages may bring tools (entry points `aegis.tools`)."""
    warm_up: bool = True
    """Whether each tool gets its first child at start, rather than at its first call."""

    @property
    def zone_name(self) -> str:
        """`zones/{zone}`, or empty where none is set."""
        return self.zone and f"zones/{self.zone}"
