"""The nodes of the sites, and the two views of them: what was registered, and what Flower sees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
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
    """A registered node.

    Attributes:
        engine_node: Flower's id of it.
        watts: Power that it draws while it trains; 0 when its site declares none.
        labels: What its site says of it.
    """

    tenant: str
    node_id: str
    public_key_pem: str
    zone: str
    engine_node: int
    create_time: datetime
    watts: float = 0.0
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"nodes/{self.node_id}"


@dataclass(frozen=True, slots=True)
class NodeSelector:
    """Which nodes take part in a run: those that meet all of it.

    Attributes:
        zones: Resource names; empty for any.
        labels: A node has all of them.
    """

    zones: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.zones or self.labels)

    def __str__(self) -> str:
        return ", ".join([" or ".join(self.zones) or "any zone", *map("=".join, self.labels.items())])

    def selects(self, node: Node) -> bool:
        if self.zones and node.zone not in self.zones:
            return False
        return all(node.labels.get(name) == value for name, value in self.labels.items())


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
