"""A Grid that polls faster than Flower's own and shows a run only the nodes that belong to it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Final

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

_POLL_S: Final = 0.2


class FastGrid(Grid):
    """Wraps a grid by its public push and pull; Flower's own polls every 3 s.

    Args:
        grid: Flower's grid.
        allowed: Returns the ids of the nodes that may take part now.
        poll: Time between two polls, in seconds.
    """

    def __init__(self, grid: Grid, *, allowed: Callable[[], Iterable[int]], poll: float = _POLL_S) -> None:
        self._grid = grid
        self._allowed = allowed
        self._poll = poll

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
        waiting = {message_id for message_id in self._grid.push_messages(messages) if message_id}
        end = None if timeout is None else time.monotonic() + timeout
        replies: list[Message] = []
        while waiting and (end is None or time.monotonic() < end):
            found = list(self._grid.pull_messages(waiting))
            replies += found
            waiting -= {message.metadata.reply_to_message_id for message in found}
            if waiting:
                time.sleep(self._poll)
        return replies
