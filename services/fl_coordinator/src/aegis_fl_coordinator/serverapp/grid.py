"""The Grid of a run: only its own nodes, quick answers, and a name for every node that is late."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final, Protocol, runtime_checkable

from flwr.app import Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

_POLL_S: Final = 0.2
LATE: Final = 70
"""Code of the error that stands for a node that did not answer in time; Flower's own are below."""


@runtime_checkable
class Local(Protocol):
    """A grid whose nodes are on this machine: nobody has to poll, and a node can be stopped."""

    def wait(self, message_ids: Collection[str], timeout: float | None) -> None:
        """Return when all replies are there, or after *timeout* seconds."""
        ...

    def cancel(self, message_ids: Collection[str]) -> None:
        """Stop the work on these messages."""
        ...


class FastGrid(Grid):
    """Wraps a grid by its public push and pull; Flower's own polls every 3 s.

    Args:
        grid: Flower's grid, or one that is `Local`.
        allowed: Returns the ids of the nodes that may take part now.
        poll: Time between two polls, in seconds.
    """

    def __init__(self, grid: Grid, *, allowed: Callable[[], Iterable[int]], poll: float = _POLL_S) -> None:
        self._grid = grid
        self._allowed = allowed
        self._poll = poll
        self.asked: Mapping[str, int] = {}
        """Node of each message that was sent last, by the message's id: an error need not name it."""
        self.answered: dict[int, float] = {}
        """Seconds until each of these nodes had answered; the others were late."""

    def set_run(self, run: Run) -> None:
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        return self._grid.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> list[int]:
        allowed = set(self._allowed())
        return sorted(node for node in self._grid.get_node_ids() if node in allowed)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return self._grid.pull_messages(message_ids)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        sent = list(messages)
        pushed = zip(self._grid.push_messages(sent), sent, strict=True)
        waiting = {message_id: message for message_id, message in pushed if message_id}
        self.asked = {message_id: message.metadata.dst_node_id for message_id, message in waiting.items()}
        self.answered = {}
        begun = time.monotonic()
        end = None if timeout is None else time.monotonic() + timeout
        replies: list[Message] = []
        while waiting:
            found = list(self._grid.pull_messages(waiting))
            replies += found
            for message in found:
                if waiting.pop(message.metadata.reply_to_message_id, None) is not None:
                    node = self.asked[message.metadata.reply_to_message_id]
                    self.answered[node] = time.monotonic() - begun
            if not waiting or (end is not None and time.monotonic() >= end):
                break
            self._wait(waiting, end)
        if waiting and isinstance(self._grid, Local):
            self._grid.cancel(waiting)
        return [*replies, *(_late(message, timeout) for message in waiting.values())]

    def _wait(self, waiting: Collection[str], end: float | None) -> None:
        left = None if end is None else max(end - time.monotonic(), 0.0)
        if isinstance(self._grid, Local):
            self._grid.wait(waiting, left)
        else:
            time.sleep(self._poll if left is None else min(self._poll, left))


def _late(message: Message, timeout: float | None) -> Message:
    return Message(Error(code=LATE, reason=f"no answer within {timeout:g} s"), reply_to=message)


class NotEnoughNodes(Exception):
    """The strategy waits for more nodes than there are, longer than a round may last."""


class PatientGrid(FastGrid):
    """For a strategy that samples: Flower's waits for ever when nodes have gone; here it does not.

    Args:
        grid: The run's grid.
        patience: How long nodes may be missing, in seconds.
    """

    def __init__(self, grid: Grid, *, patience: float) -> None:
        super().__init__(grid, allowed=grid.get_node_ids)
        self._patience = patience
        self._end = time.monotonic() + patience

    def get_node_ids(self) -> list[int]:
        found = list(self._grid.get_node_ids())
        if time.monotonic() > self._end:
            raise NotEnoughNodes(
                f"the strategy waited {self._patience:g} s for more than the {len(found)} nodes online"
            )
        return found
