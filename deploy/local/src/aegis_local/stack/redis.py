"""Two Redis: jobs, which must not lose a write, and a cache, which may lose everything."""

from __future__ import annotations

from aegis_local.environment import base_environment
from aegis_local.stack.layout import Layout
from aegis_local.supervisor.probes import redis_ping
from aegis_local.supervisor.spec import ProcessSpec

JOBS = "redis-jobs"
CACHE = "redis-cache"
_CACHE_MEMORY = "128mb"


def redis_units(layout: Layout) -> list[ProcessSpec]:
    jobs = ["--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction"]
    cache = ["--appendonly", "no", "--maxmemory", _CACHE_MEMORY, "--maxmemory-policy", "allkeys-lru"]
    return [_redis(layout, JOBS, jobs), _redis(layout, CACHE, cache)]


def _redis(layout: Layout, name: str, options: list[str]) -> ProcessSpec:
    socket = layout.socket(name)
    argv = [
        str(layout.redis_server),
        *("--port", "0", "--unixsocket", str(socket), "--unixsocketperm", "700"),
        *("--dir", str(layout.data(name)), "--save", "", "--daemonize", "no"),
        *options,
    ]
    return ProcessSpec(
        name=name,
        argv=argv,
        env=base_environment(),
        ready=redis_ping(socket),
        drain=5,
        url=layout.redis_url(name),
    )
