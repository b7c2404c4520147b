"""What an answer says about the other replicas."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from aegis.agent.v1 import replica_pb2 as pb
from aegis_agent.domain.replicas import MAX_WAIT, NotEverywhere, Replicas, ReplicaState, ReplicaStatus
from aegis_common.rpc.call import current_call

# The caller's own deadline must not pass before the answer is there.
_MARGIN_S: Final = 0.5
_MARGIN_SHARE: Final = 0.2
_STATES: Final = {
    ReplicaState.LIVE: pb.ReplicaStatus.STATE_LIVE,
    ReplicaState.LAGGING: pb.ReplicaStatus.STATE_LAGGING,
    ReplicaState.REFUSED: pb.ReplicaStatus.STATE_REFUSED,
    ReplicaState.UNKNOWN: pb.ReplicaStatus.STATE_UNKNOWN,
}


async def everywhere(replicas: Replicas, change: str) -> list[pb.ReplicaStatus]:
    """Wait until all replicas have taken over a change of the current call, and return how far each is."""
    return [_message(status) for status in await replicas.settled(change, within=wait_left())]


async def insist(replicas: Replicas, change: str, what: str) -> None:
    """Wait as `everywhere` does, for an answer that has no place for how far each replica is.

    Raises:
        NotEverywhere: Another replica lags, or cannot follow; *what* has been done here.
    """
    statuses = await replicas.settled(change, within=wait_left())
    behind = [item for item in statuses if item.state in (ReplicaState.LAGGING, ReplicaState.REFUSED)]
    if behind:
        raise NotEverywhere.of(what, behind)


def wait_left() -> timedelta:
    """Return how long the current call may wait for other replicas."""
    left = current_call().time_remaining()
    return min(MAX_WAIT, timedelta(seconds=left - min(_MARGIN_S, left * _MARGIN_SHARE)))


def _message(status: ReplicaStatus) -> pb.ReplicaStatus:
    return pb.ReplicaStatus(
        replica=status.replica,
        address=status.address,
        state=_STATES[status.state],
        message=status.message,
    )
