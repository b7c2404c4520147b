"""What a round moves and uses: content to and from each node, time until it answered, CPU time."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from datetime import timedelta
from typing import Protocol, runtime_checkable

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from aegis.fl.v1 import training_service_pb2 as training_pb
from aegis_fl_coordinator.serverapp.grid import LATE, FastGrid

_State = training_pb.NodeOutcome.State


@runtime_checkable
class Metered(Protocol):
    """A grid whose nodes are processes of this machine."""

    def cpu_seconds(self) -> float:
        """Return the CPU seconds that its nodes have used so far."""
        ...


class Meter:
    """Measures one round after the other.

    Args:
        nodes: The grid at the bottom; counted too where it is `Metered`.
    """

    def __init__(self, nodes: object) -> None:
        self._nodes = nodes if isinstance(nodes, Metered) else None
        self._grid: FastGrid | None = None
        self._sent: Counter[int] = Counter()
        self._received: Counter[int] = Counter()
        self._cpu = self._cpu_now()

    def begin(self, grid: Grid) -> None:
        """Begin a round over *grid*."""
        self._grid = grid if isinstance(grid, FastGrid) else None
        self._sent.clear()
        self._received.clear()
        self._cpu = self._cpu_now()

    def sent(self, messages: Iterable[Message]) -> None:
        """Count what goes to the nodes."""
        sizes: dict[int, int] = {}
        for message in messages:
            content = message.content
            # Strategies send one content to many nodes.
            if id(content) not in sizes:
                sizes[id(content)] = _size(content)
            self._sent[message.metadata.dst_node_id] += sizes[id(content)]

    def received(self, replies: Iterable[Message]) -> None:
        """Count what came from the nodes."""
        for reply in replies:
            if reply.has_content():
                self._received[self.node(reply)] += _size(reply.content)

    def node(self, reply: Message) -> int:
        """Return Flower's id of the node that a reply, or an error in its place, is from."""
        asked = self._grid.asked if self._grid else {}
        return asked.get(reply.metadata.reply_to_message_id, reply.metadata.src_node_id)

    def outcome(self, reply: Message, fault: str, name: str) -> training_pb.NodeOutcome:
        """Return what the node of *reply* did; *fault* is why its result was not used, or empty."""
        node = self.node(reply)
        outcome = training_pb.NodeOutcome(
            node=name,
            state=_state(reply, fault),
            message=fault,
            bytes_sent=self._sent[node],
            bytes_received=self._received[node],
        )
        took = self._grid.answered.get(node) if self._grid else None
        if took is not None:
            outcome.duration.FromTimedelta(timedelta(seconds=took))
        return outcome

    def add_to(self, report: training_pb.Round) -> None:
        """Note the sums of the round, which is over, in its report."""
        report.bytes_sent = self._sent.total()
        report.bytes_received = self._received.total()
        report.cpu_seconds = max(self._cpu_now() - self._cpu, 0.0)

    def _cpu_now(self) -> float:
        return time.process_time() + (self._nodes.cpu_seconds() if self._nodes else 0.0)


def _state(reply: Message, fault: str) -> training_pb.NodeOutcome.State.ValueType:
    if reply.has_error():
        return _State.STATE_LATE if reply.error.code == LATE else _State.STATE_FAILED
    return _State.STATE_DROPPED if fault else _State.STATE_USED


def _size(content: RecordDict) -> int:
    return sum(len(array.data) for record in content.array_records.values() for array in record.values())
