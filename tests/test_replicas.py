"""Calls by every door of two replicas, while one of them is killed or replaced."""

from __future__ import annotations

import time

import pytest

from replica_load import Load, calling, doors, publish_colours, serves
from replica_support import Replicas, until

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]


def test_a_published_alias_is_live_at_both(replicas: Replicas) -> None:
    publish_colours(replicas, "v2")

    took = until(lambda: all(serves(replicas, agent, "v2") for agent in replicas.agents), "both serve v2")
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
