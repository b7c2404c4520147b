"""The nodes of the sites, and the two views of them: what was registered, and what Flower sees."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Final

FIRST_VIRTUAL_NODE: Final = 1001
"""Engine's id of the virtual node with partition 0; the others follow."""


def virtual_nodes(count: int) -> dict[int, str]:
    """Return the engine's id of each of *count* virtual nodes, to its resource name."""
    return {FIRST_VIRTUAL_NODE + number: f"nodes/virtual-{number:04d}" for number in range(count)}


class NodeState(Enum):
    REGISTERED = "registered"
    ONLINE = "online"
    OFFLINE = "offline"


@dataclass(frozen=True, slots=True)
class Node:
    """A registered node. `engine_node` is Flower's id of it; `watts` is 0 when its site declares none."""

    tenant: str
    node_id: str
    public_key_pem: str
    zone: str
    engine_node: int
    create_time: datetime
    watts: float = 0.0

    @property
    def name(self) -> str:
        return f"nodes/{self.node_id}"


@dataclass(frozen=True, slots=True)
class EngineNode:
    """A node as Flower sees it."""

    engine_node: int
    public_key_pem: str
    state: NodeState
    last_active: datetime | None


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """A registered node and how it is."""

    node: Node
    state: NodeState
    last_active: datetime | None
