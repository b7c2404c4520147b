"""Two replicas behind the gateway: what one knows the other knows, and either may be killed under load."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import grpc.aio
import pytest

from aegis_common.pki import server_dns
from aegis_common.testing.pki import NAMESPACE
from oip_support import publish, scores
from replica_load import MODEL, Load, calling, doors
from replica_support import Replicas, running_replicas, until

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicas]:
    with running_replicas(tmp_path_factory.mktemp("replicas")) as running:
        asyncio.run(publish_colours(running, "v1"))
        until(lambda: all(serves(running, at, "v1") for at in (0, 1)), "the model is served by both")
        yield running


async def publish_colours(replicas: Replicas, version: str) -> None:
    """Publish a version through the gateway, as whoever trains models does."""
    options = [("grpc.ssl_target_name_override", server_dns("gateway", NAMESPACE))]
    address = replicas.gateway.settings.machines_listen
    credentials = replicas.mesh.credentials("admin")
    async with grpc.aio.secure_channel(address, credentials, options) as channel:
        await publish(channel, replicas.store, MODEL, scores(int(version[1:])), version=version)


def serves(replicas: Replicas, at: int, version: str) -> bool:
    with replicas.http(replicas.agents[at]) as http:
        row = {"name": "input", "datatype": "FP32", "shape": [1, 4], "data": [0, 1, 0, 0]}
        answer = http.post(f"/v2/models/{MODEL}/infer", json={"inputs": [row]})
    return answer.status_code == 200 and answer.json()["model_version"] == version


def test_a_published_alias_is_live_at_both(replicas: Replicas) -> None:
    asyncio.run(publish_colours(replicas, "v2"))

    took = until(lambda: all(serves(replicas, at, "v2") for at in (0, 1)), "both serve v2")
    print(f"alias live on both after {took:.1f} s")


@pytest.mark.parametrize("number", [0, 1])
def test_calls_by_every_door_go_on_when_a_replica_is_killed(replicas: Replicas, number: int) -> None:
    victim = replicas.agents[number]
    with doors(replicas) as calls, calling(calls) as load:
        more(load, 5)
        victim.kill()
        dead = time.monotonic()
        more(load, 50)
        replicas.revive(victim)
        more(load, 20)

    shown = [
        f"{item.kind} begun {item.begun - dead:+.4f} s after the death: {item.error}"
        for item in load.failures
    ]
    print(*shown, sep="\n")
    assert [] == [item for item in load.failures if item.kind.startswith("again")]
    assert [] == [item for item in load.failures if item.begun > dead]


def test_no_call_fails_when_the_replicas_are_replaced_one_after_the_other(replicas: Replicas) -> None:
    with doors(replicas) as calls, calling(calls) as load:
        for agent in replicas.agents:
            more(load, 10)
            began = time.monotonic()
            agent.terminate()
            print(f"{agent.name} ended after {time.monotonic() - began:.1f} s")
            more(load, 10)
            replicas.revive(agent)
        more(load, 10)

    print(*load.failures, sep="\n")
    assert [] == load.failures


def more(load: Load, count: int) -> None:
    """Wait until so many more calls of each kind have come back."""
    before = dict(load.done)
    until(lambda: load.grown(before, count), "calls go on")
