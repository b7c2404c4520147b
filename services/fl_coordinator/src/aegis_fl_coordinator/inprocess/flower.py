"""What the engine needs of Flower beyond its public interface, in one place and covered by its tests."""

from __future__ import annotations

import importlib
import sys
import tomllib
from pathlib import Path
from typing import Any, Final

from flwr.app import Context, Message
from flwr.common.serde import (
    context_from_proto,
    context_to_proto,
    message_from_proto,
    message_to_proto,
    recorddict_to_proto,
)
from flwr.common.serde_utils import metadata_to_proto
from flwr.proto.message_pb2 import Context as ContextProto
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.supercore.task_identity import TaskIdentity

SERVER_NODE: Final = 1
"""Flower's id of the server."""
RUN: Final = 1


class BrokenApp(Exception):
    """The app cannot be loaded; the message says why."""


def identify() -> None:
    """Make this process one that may create messages; Flower's own processes are told by SuperLink."""
    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = RUN, 1, SERVER_NODE


def stamp(message: Message, message_id: str) -> None:
    """Give a message the id that its reply will name; SuperLink does it for messages that travel."""
    message.metadata.__dict__["_message_id"] = message_id


def head_bytes(message: Message) -> bytes:
    """Return a message without its content; `content_bytes` appended to it gives the whole."""
    return MessageProto(metadata=metadata_to_proto(message.metadata)).SerializeToString()


def content_bytes(message: Message) -> bytes:
    """Return the content of a message alone: many messages share one."""
    return MessageProto(content=recorddict_to_proto(message.content)).SerializeToString()


def message_bytes(message: Message) -> bytes:
    return message_to_proto(message).SerializeToString()


def read_message(content: bytes) -> Message:
    return message_from_proto(MessageProto.FromString(content))


def context_bytes(context: Context) -> bytes:
    return context_to_proto(context).SerializeToString()


def read_context(content: bytes) -> Context:
    return context_from_proto(ContextProto.FromString(content))


def load_app(folder: Path, component: str) -> Any:
    """Return the `serverapp` or `clientapp` of the Flower app in *folder*, which stays importable.

    Raises:
        BrokenApp: It is not declared, or cannot be imported.
    """
    try:
        project = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))
        module, _, name = project["tool"]["flwr"]["app"]["components"][component].partition(":")
    except (OSError, KeyError, ValueError, AttributeError) as error:
        raise BrokenApp(f"{folder} declares no {component}: {error!r}") from error
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:
        raise BrokenApp(f"the {component} {module}:{name} cannot be loaded: {error!r}") from error
    return found
