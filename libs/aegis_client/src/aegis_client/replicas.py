"""How far each agent of a deployment is with a change."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from aegis.agent.v1 import replica_pb2 as pb


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaStatus:
    """How far one agent is with a change.

    Attributes:
        replica: Name of its process; empty for `UNKNOWN`.
        address: `host:port` where other agents reach it, or empty.
        state: `LIVE`; `LAGGING`: it has not taken the change over in time, and goes on trying; `REFUSED`: it
            cannot, and tries again within a minute; `UNKNOWN`: there may be others that nobody knows of now.
        message: Why the change is not in force there, or empty.
    """

    replica: str
    address: str
    state: str
    message: str

    @property
    def live(self) -> bool:
        """Whether the change is in force there."""
        return self.state == "LIVE"


def read_replicas(messages: Iterable[pb.ReplicaStatus]) -> tuple[ReplicaStatus, ...]:
    return tuple(
        ReplicaStatus(
            replica=item.replica,
            address=item.address,
            state=pb.ReplicaStatus.State.Name(item.state).removeprefix("STATE_"),
            message=item.message,
        )
        for item in messages
    )
