"""Flower's Grid over virtual nodes: each message is done by a process of the pool."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from flwr.app import Context, Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from aegis_fl_coordinator.domain.nodes import virtual_nodes
from aegis_fl_coordinator.inprocess.flower import (
    RUN,
    content_bytes,
    context_bytes,
    head_bytes,
    identify,
    read_message,
    stamp,
)
from aegis_fl_coordinator.inprocess.pool import Pool, Work
from aegis_fl_coordinator.inprocess.worker import APP_FAILED, CPU

_STOPPED: Final = "stopped: the time was up"


@dataclass(slots=True)
class _Node:
    """What a node keeps between messages: Flower's context, and how many messages it has had."""

    context: bytes
    messages: int = 0


class PoolGrid(Grid):
    """A run's nodes on this machine.

    Args:
        pool: The processes.
        nodes: Number of nodes; node i has `partition-id` i, as in Flower's simulation.
        run_config: The run's configuration.
        seed: Seeds what the app draws from global generators; None leaves them alone.
    """

    def __init__(
        self, pool: Pool, *, nodes: int, run_config: Mapping[str, Any], seed: int | None = None
    ) -> None:
        identify()
        self._pool = pool
        self._seed = seed
        self._changed = threading.Condition()
        self._replies: dict[str, Message] = {}
        self._open: set[str] = set()
        self._cpu = 0.0
        self._nodes = {
            node: _Node(context_bytes(_context(node, number, nodes, run_config)))
            for number, node in enumerate(virtual_nodes(nodes))
        }

    def set_run(self, run: Run) -> None:
        raise NotImplementedError("a virtual run has no entry in a SuperLink")

    @property
    def run(self) -> Run:
        return Run.create_empty(RUN)

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        return list(self._nodes)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        # Strategies send one content to many nodes: it is written out once.
        written: dict[int, tuple[RecordDict, bytes]] = {}
        pushed: list[str] = []
        for message in messages:
            content = message.content
            if id(content) not in written:
                written[id(content)] = (content, content_bytes(message))
            pushed.append(self._push(message, written[id(content)][1]))
        return pushed

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        with self._changed:
            return [self._replies.pop(key) for key in set(message_ids) if key in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        pushed = self.push_messages(messages)
        self.wait(pushed, timeout)
        self.cancel(pushed)
        return self.pull_messages(pushed)

    def wait(self, message_ids: Collection[str], timeout: float | None) -> None:
        """Return when all replies are there, or after *timeout* seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._open.isdisjoint(message_ids), timeout)

    def cancel(self, message_ids: Collection[str]) -> None:
        """Stop the work on these messages, by killing the processes that do it, and return."""
        self._pool.cancel(set(message_ids), _STOPPED)
        self.wait(message_ids, None)

    def cpu_seconds(self) -> float:
        """Return the CPU seconds of the nodes so far; work that was stopped or died is not in it."""
        with self._changed:
            return self._cpu

    def snapshot(self) -> dict[str, Any]:
        """Return what the nodes keep, for a checkpoint."""
        return {str(key): [node.messages, node.context] for key, node in self._nodes.items() if node.messages}

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Put back what `snapshot` returned."""
        for key, (messages, context) in snapshot.items():
            if int(key) in self._nodes:
                self._nodes[int(key)] = _Node(context, messages)

    def _push(self, message: Message, content: bytes) -> str:
        key = uuid.uuid4().hex
        stamp(message, key)
        node_id = message.metadata.dst_node_id
        node = self._nodes[node_id]
        number = node.messages
        node.messages += 1
        seed = b"" if self._seed is None else f"{self._seed}/{node_id}/{number}".encode()
        frame = head_bytes(message) + content
        with self._changed:
            self._open.add(key)
        self._pool.submit(
            Work(key, node_id, lambda: (seed, frame, node.context), self._finisher(message, node, key))
        )
        return key

    def _finisher(self, message: Message, node: _Node, key: str) -> Callable[[list[bytes] | None, str], None]:
        def finish(answer: list[bytes] | None, reason: str) -> None:
            reply: Message | None = None
            used = 0.0
            if answer is not None:
                try:
                    reply, node.context, used = read_message(answer[0]), answer[1], CPU.unpack(answer[2])[0]
                except Exception as error:  # whatever the app wrote between the frames
                    reason = f"the answer cannot be read: {error!r}"
            if reply is None:
                reply = Message(Error(code=APP_FAILED, reason=reason), reply_to=message)
            with self._changed:
                self._open.discard(key)
                self._replies[key] = reply
                self._cpu += used
                self._changed.notify_all()

        return finish


def _context(node: int, number: int, nodes: int, run_config: Mapping[str, Any]) -> Context:
    return Context(
        run_id=RUN,
        node_id=node,
        node_config={"partition-id": number, "num-partitions": nodes},
        state=RecordDict(),
        run_config=dict(run_config),
    )
