"""The three services: console scripts of this installation, configured by their environment."""

from __future__ import annotations

import json
from pathlib import Path

from aegis_local.stack.layout import Layout
from aegis_local.stack.redis import CACHE, JOBS
from aegis_local.supervisor.spec import ProcessSpec


def coordinator_data(layout: Layout) -> Path:
    return layout.data("fl-coordinator")


def carbon_unit(layout: Layout) -> ProcessSpec:
    settings = {"AEGIS_CARBON_CACHE_REDIS_URL": layout.redis_url(CACHE)}
    return _service(layout, "carbon", settings, depends_on=[CACHE])


def agent_unit(layout: Layout) -> ProcessSpec:
    settings = {
        "AEGIS_AGENT_HTTP_LISTEN": layout.address("agent_http"),
        "AEGIS_AGENT_PUBLIC_URL": layout.public_url,
        "AEGIS_AGENT_MODEL_STORE_URL": layout.store_url,
        "AEGIS_AGENT_REDIS_URL": layout.redis_url(JOBS),
        "AEGIS_AGENT_CARBON": layout.address("carbon"),
        "AEGIS_AGENT_WORKER_POLICY": str(layout.state.worker_policy),
        "AEGIS_AGENT_MODEL_TRUSTED_KEYS": json.dumps([str(layout.credentials.trusted_keys("model-signing"))]),
    }
    return _service(layout, "agent", settings, depends_on=["carbon", JOBS])


def coordinator_unit(layout: Layout) -> ProcessSpec:
    prefix = "AEGIS_FL_COORDINATOR_"
    serverapp = {f"SERVERAPP_TLS__{key.upper()}": value for key, value in layout.tls("fl-serverapp").items()}
    settings = {
        "DATA_DIR": str(coordinator_data(layout)),
        "SUPERLINK": layout.address("superlink"),
        "SUPERLINK_CA": str(layout.credentials.bundle),
        **serverapp,
        "ADVERTISE": layout.address("fl_coordinator"),
        "CARBON": layout.address("carbon"),
        "AGENT": layout.address("agent"),
        "MODEL_STORE": layout.store_url,
        "SIGNING_KEY": str(layout.credentials.signing_key("model-signing")),
    }
    named = {prefix + name: value for name, value in settings.items()}
    return _service(layout, "fl-coordinator", named, depends_on=["carbon", "agent", "superlink"])


def _service(layout: Layout, account: str, settings: dict[str, str], *, depends_on: list[str]) -> ProcessSpec:
    return ProcessSpec(
        name=account,
        argv=[layout.script(f"aegis-{account}")],
        # The user's own variables win over ours too.
        env={**settings, **layout.service_environment(account)},
        depends_on=depends_on,
        ready=layout.health(account),
        drain=15,
        url=layout.address(account.replace("-", "_")),
    )
