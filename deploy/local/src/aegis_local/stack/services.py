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
    settings = {"CACHE_REDIS_URL": layout.redis_url(CACHE), "REDIS_URL": layout.redis_url(JOBS)}
    return _service(layout, "carbon", settings, depends_on=[CACHE, JOBS])


def agent_units(layout: Layout) -> list[ProcessSpec]:
    """Return the agents: replicas of one service, which share Redis, stores and certificate."""
    listeners = zip(layout.replicas, layout.of_agents(), layout.of_agents("_http"), strict=True)
    return [_agent(layout, name, grpc, http) for name, grpc, http in listeners]


def _agent(layout: Layout, name: str, grpc: str, http: str) -> ProcessSpec:
    settings = {
        "HTTP_LISTEN": http,
        "PUBLIC_URL": layout.public_url,
        "MODEL_STORE_URL": layout.store_url,
        "REDIS_URL": layout.redis_url(JOBS),
        "CARBON": layout.address("carbon"),
        "WORKER_POLICY": str(layout.state.worker_policy),
        "MODEL_TRUSTED_KEYS": json.dumps([str(layout.credentials.trusted_keys("model-signing"))]),
        "RECORDS_KEY": str(layout.credentials.signing_key("records")),
        "INSTANCE": name,
    }
    if layout.agents > 1:
        settings["ADVERTISE"] = grpc
    return _service(layout, "agent", settings, depends_on=["carbon", JOBS], name=name)


def coordinator_unit(layout: Layout) -> ProcessSpec:
    serverapp = {f"SERVERAPP_TLS__{key.upper()}": value for key, value in layout.tls("fl-serverapp").items()}
    settings = {
        "DATA_DIR": str(coordinator_data(layout)),
        "SUPERLINK": layout.address("superlink"),
        "SUPERLINK_CA": str(layout.credentials.bundle),
        **serverapp,
        "ADVERTISE": layout.address("fl_coordinator"),
        "CARBON": layout.address("carbon"),
        "AGENT": "ipv4:" + ",".join(layout.of_agents()),
        "MODEL_STORE": layout.store_url,
        "SIGNING_KEY": str(layout.credentials.signing_key("model-signing")),
    }
    needed = ["carbon", *layout.replicas, "superlink"]
    return _service(layout, "fl-coordinator", settings, depends_on=needed)


def _service(
    layout: Layout, account: str, settings: dict[str, str], *, depends_on: list[str], name: str = ""
) -> ProcessSpec:
    name = name or account
    return ProcessSpec(
        name=name,
        argv=[layout.script(f"aegis-{account}")],
        env=layout.service_environment(account, name, settings),
        depends_on=depends_on,
        ready=layout.health(account, name),
        drain=15,
        url=layout.address(name.replace("-", "_")),
    )
