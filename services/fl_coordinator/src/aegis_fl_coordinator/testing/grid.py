"""Flower's Grid in this process: the client app is called directly, without SuperLink."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

FIRST_NODE = 11


class LocalGrid(Grid):
    """Nodes `FIRST_NODE`, `FIRST_NODE` + 1, and so on; one run per process."""

    def __init__(self, app: ClientApp, nodes: int) -> None:
        # Flower keeps the identity of a task in private globals; messages cannot be made without it.
        TaskIdentity.run_id = TaskIdentity.task_id = TaskIdentity.node_id = 1
        self._app = app
        self._replies: dict[str, Message] = {}
        self.online = {
            FIRST_NODE + number: _context(number, nodes, FIRST_NODE + number) for number in range(nodes)
        }

    def set_run(self, run: Run) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Run:
        raise NotImplementedError

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        raise NotImplementedError

    def get_node_ids(self) -> list[int]:
        return list(self.online)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        return [self._work(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        return [self._replies.pop(number) for number in set(message_ids) if number in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        del timeout
        return self.pull_messages(self.push_messages(messages))

    def _work(self, message: Message) -> str:
        number = uuid.uuid4().hex
        message.metadata.__dict__["_message_id"] = number
        context = self.online[message.metadata.dst_node_id]
        try:
            reply = self._app(message, context)
        except Exception as error:
            reply = Message(Error(code=2, reason=repr(error)), reply_to=message)
        self._replies[number] = reply
        return number


def _context(number: int, nodes: int, node_id: int) -> Context:
    config: Mapping[str, int] = {"partition-id": number, "num-partitions": nodes}
    return Context(run_id=1, node_id=node_id, node_config=dict(config), state=RecordDict(), run_config={})
