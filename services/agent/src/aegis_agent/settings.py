"""What an operator can set: `AEGIS_AGENT_*`."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from aegis_common.settings import Seconds, ServiceSettings
from aegis_common.store.connect import StoreOptions


class AgentSettings(ServiceSettings):
    """Settings of the agent."""

    model_config = SettingsConfigDict(env_prefix="AEGIS_AGENT_")

    model_store_url: str
    """Where models lie: `file:///folder` or `s3://bucket/prefix`."""
    model_store: StoreOptions = StoreOptions()
    """How an S3 bucket is reached."""
    model_trusted_keys: tuple[Path, ...] = Field(min_length=1)
    """Ed25519 public keys (PEM files, or folders of them) whose signatures on models count; a JSON list."""
    max_model_bytes: int = Field(default=256 << 20, ge=1)
    """Largest model file that is served."""
    model_threads: int = Field(default=1, ge=1, le=64)
    """Threads of one inference."""
    model_concurrency: int = Field(default=2, ge=1, le=64)
    """Most inferences of one model at once."""
    model_queue_size: int = Field(default=64, ge=0)
    """Most calls of one model that wait."""
    model_timeout: Seconds = Field(default=timedelta(seconds=30), gt=timedelta(0), le=timedelta(minutes=10))
    """Deadline of a model call that brings none."""
    child_memory_bytes: int = Field(default=2 << 30, ge=64 << 20)
    """Address space that one inference process may add; the built-in tools have limits of their own."""
    tools: tuple[str, ...] = ()
    """More tools: a JSON list of `module:function` or `name=module:function`."""
    plugins: bool = True
    """Whether installed packages may bring tools (entry points `aegis.tools`)."""
    warm_up: bool = True
    """Whether each tool gets its first child at start, rather than at its first call."""
