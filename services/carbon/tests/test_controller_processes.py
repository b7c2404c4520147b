"""Controllers and the carbon service as processes that are killed: each Job starts once, and in time."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from aegis_carbon.controller.domain.record import RECORD
from aegis_carbon.testing.kube_api import KubeApi
from aegis_common.testing.pki import Mesh
from aegis_common.testing.ports import free_port
from aegis_common.testing.redis import RedisServer
from aegis_common.testing.waiting import until

pytestmark = [pytest.mark.long, pytest.mark.timeout(240)]

PROGRAMS = Path(sys.executable).parent
SPEED = 2880
DAY = timedelta(days=1) / SPEED
STEP = timedelta(minutes=30)
MONDAY = datetime(1970, 1, 5, tzinfo=UTC)
CLEAN = timedelta(hours=2)


def series(path: Path, cleanest: datetime) -> Path:
    """Write a week whose every day gets cleaner until *cleanest*, at the pace of the replay."""
    offset = (cleanest - MONDAY) * SPEED % timedelta(days=1)
    rows = ["# schema_version: 1", "# kind: synthetic", "# step_minutes: 30", "time,grid"]
    for number in range(7 * 48):
        at = number * STEP
        left = (offset - at) % timedelta(days=1)
        value = 50 if left > timedelta(days=1) - CLEAN else 100 + left / timedelta(minutes=1)
        rows.append(f"{(MONDAY + at).isoformat()},{value:.1f}")
    path.write_text("\n".join(rows) + "\n")
    return path


class Processes:
    """What runs, by name."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._begun: dict[str, int] = {}

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def start(self, name: str, program: str, environment: dict[str, str]) -> None:
        with self._log(name).open("ab") as log:
            self._begun[name] = log.tell()
            self._running[name] = subprocess.Popen(
                [PROGRAMS / program], env={**os.environ, **environment}, stdout=log, stderr=log
            )

    def kill(self, name: str) -> None:
        child = self._running.pop(name)
        child.send_signal(signal.SIGKILL)
        child.wait()

    def ready(self, name: str) -> bool:
        """Return whether a controller has seen all Jobs since its last start."""
        return b"Jobs listed" in self._log(name).read_bytes()[self._begun[name] :]

    def stop(self, name: str) -> int:
        child = self._running.pop(name)
        child.terminate()
        return child.wait(30)

    @contextmanager
    def all_gone(self) -> Iterator[None]:
        try:
            yield
        finally:
            for name in list(self._running):
                self.kill(name)


class Site:
    """A cluster, a carbon service and controllers of it."""

    def __init__(self, folder: Path, api: KubeApi, mesh: Mesh, redis: RedisServer) -> None:
        self.api, self._mesh, self._redis, self._folder = api, mesh, redis, folder
        self.processes = Processes(folder)
        self.cleanest = datetime.now(UTC) + 0.8 * DAY
        self._series = series(folder / "grid.csv", self.cleanest)
        self._port = free_port()
        (folder / "token").write_text("secret")

    def start_carbon(self) -> None:
        environment = {
            **self._mesh.service_env("AEGIS_CARBON_", "carbon"),
            "AEGIS_CARBON_LISTEN": f"127.0.0.1:{self._port}",
            "AEGIS_CARBON_PROVIDERS": "replay",
            "AEGIS_CARBON_REPLAY_FILE": str(self._series),
            "AEGIS_CARBON_REPLAY_SPEED": str(SPEED),
            "REDIS_URL": self._redis.url,
        }
        self.processes.start("carbon", "aegis-carbon", environment)

    def start_controller(self, name: str) -> None:
        tls = self._mesh.tls("carbon-controller")
        values = {
            "CLUSTER": "test",
            "NAMESPACES": json.dumps({"*": "default"}),
            "CARBON": f"127.0.0.1:{self._port}",
            "API_SERVER": self.api.url,
            "API_CA": self._mesh.ca.bundle,
            "API_TOKEN": self._folder / "token",
            "LEASE_NAMESPACE": "aegis",
            "LEASE_DURATION": 1,
            "POLL": 0.2,
            "POD_START": 2,
            "TLS__CERT": tls.cert,
            "TLS__KEY": tls.key,
            "TLS__BUNDLE": tls.bundle,
        }
        environment = {f"AEGIS_CONTROLLER_{key}": str(value) for key, value in values.items()}
        self.processes.start(name, "aegis-carbon-controller", environment)

    def create(self, name: str, *, within_s: int, duration_s: int, **wish: str) -> datetime:
        """Create a Job, and return by when it has to have started."""
        named = {"deadline": f"{within_s}s", "duration": f"{duration_s}s", **wish}
        self.api.create_job(name, {f"aegis.dev/{key}": text for key, text in named.items()}, suspend=True)
        created = datetime.fromisoformat(self.api.job(name)["metadata"]["creationTimestamp"])
        return created + timedelta(seconds=within_s - duration_s)

    def runs(self, name: str) -> bool:
        return not self.api.job(name)["spec"]["suspend"]

    def booked(self, name: str) -> bool:
        return "reservations/" in self.api.job(name)["metadata"]["annotations"].get(RECORD, "")

    def starts(self, name: str) -> int:
        return self.api.starts(self.api.job(name)["metadata"]["uid"])


@pytest.fixture
def site(tmp_path: Path, durable: RedisServer) -> Iterator[Site]:
    mesh = Mesh(tmp_path / "mesh")
    tls = mesh.tls("gateway")
    with KubeApi.serving((tls.cert, tls.key)) as api:
        site = Site(tmp_path, api, mesh, durable)
        with site.processes.all_gone():
            yield site


async def test_controllers_that_are_killed_all_the_time_start_every_job_once_in_the_clean_window(
    site: Site,
) -> None:
    site.start_carbon()
    controllers = ["one", "two"]
    for name in controllers:
        site.start_controller(name)
    names = [f"job-{number}" for number in range(5)]
    latest = {name: site.create(name, within_s=80, duration_s=2) for name in names}
    await until(lambda: all(site.booked(name) for name in names), timeout_s=60)
    dice = random.Random(1)  # noqa: S311  # repeats itself
    began: dict[str, datetime] = {}

    def look() -> bool:
        now = datetime.now(UTC)
        began.update({name: now for name in names if name not in began and site.runs(name)})
        return len(began) == len(names)

    def seen(but: str) -> bool:
        return all(site.processes.ready(name) for name in controllers if name != but)

    while not look():
        # One of the two is there at any time; whether it leads already is a matter of luck.
        victim = dice.choice(controllers)
        await until(partial(seen, victim))
        site.processes.kill(victim)
        site.start_controller(victim)
        with suppress(TimeoutError):
            await until(look, timeout_s=dice.uniform(0.1, 2))

    for name in names:
        assert 1 == site.starts(name)
        assert began[name] <= latest[name]
    # A change of leaders may cost a few seconds of the clean window; before it nothing starts.
    assert min(began.values()) >= site.cleanest - timedelta(seconds=1)


async def test_a_carbon_service_that_is_killed_and_left_dead_makes_no_job_late(site: Site) -> None:
    site.start_carbon()
    site.start_controller("one")
    latest = {
        "booked": site.create("booked", within_s=40, duration_s=5),
        "split": site.create("split", within_s=40, duration_s=5, interruptible="true"),
    }
    await until(lambda: all(site.booked(name) for name in latest), timeout_s=60)
    assert not any(site.runs(name) for name in latest)
    site.processes.kill("carbon")
    latest["alone"] = site.create("alone", within_s=20, duration_s=5, **{"on-missing": "run_at_latest_start"})
    # Another one finds what the first has left.
    site.processes.kill("one")
    site.start_controller("two")
    waiting = set(latest)
    while waiting:
        waiting = {name for name in waiting if not site.runs(name)}
        now = datetime.now(UTC)
        assert all(now <= latest[name] for name in waiting)
        await asyncio.sleep(0.05)

    assert [1, 1, 1] == [site.starts(name) for name in latest]
    assert 0 == site.processes.stop("two")
