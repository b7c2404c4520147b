"""Fixtures of the tests that need more than one part."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from artifact_doors import Doors, running_doors
from replica_load import publish_colours, serves
from replica_support import Replicas, running_replicas, until
from stack_support import Stack, start_stack, stop_stack


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One stack without sites, for all tests that leave it as it was."""
    running = start_stack(tmp_path_factory.mktemp("stack") / "state", nodes=0)
    yield running
    stop_stack(running)


@pytest.fixture(scope="session")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    """An agent behind a gateway, without the rest of a stack."""
    with running_doors(tmp_path_factory.mktemp("doors")) as running:
        yield running


@pytest.fixture(scope="module")  # each Envoy takes a share of the kernel's file watches
def replicas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicas]:
    """Two agents behind a gateway that serve a model; tests that kill one start it again."""
    with running_replicas(tmp_path_factory.mktemp("replicas")) as running:
        publish_colours(running, "v1")
        until(lambda: all(serves(running, agent, "v1") for agent in running.agents), "both serve the model")
        yield running
