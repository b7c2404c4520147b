"""Ports."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from aegis_common.errors import ConfigurationError
from aegis_local.errors import PortTaken
from aegis_local.ports import allot, names


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken


def test_ports_follow_the_base_in_a_fixed_order() -> None:
    base = allot(0, 0)["machines"]
    wanted = names(3)

    assert wanted[:2] == ["machines", "people"]
    assert len(set(wanted)) == len(wanted) == 18
    assert base > 0


def test_base_0_gives_distinct_free_ports() -> None:
    ports = allot(0, 3)

    assert len(set(ports.values())) == len(names(3))


def test_more_agents_move_no_other_port() -> None:
    one, three = names(2), names(2, 3)

    assert one == three[: len(one)]
    assert 6 == len(three) - len(one)


def test_a_taken_port_is_named_with_its_holder(listener: socket.socket) -> None:
    port = listener.getsockname()[1]

    with pytest.raises(
        PortTaken, match=rf"port {port} for machines is taken by .*pid {os.getpid()}.*--port-base"
    ):
        allot(port, 0)


def test_a_base_without_room_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="1024 to 65535"):
        allot(65530, 0)
