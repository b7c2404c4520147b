"""Descriptions of calls: what is sent, how the answer is read. Pure data, the same for sync and async."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from google.protobuf import descriptor, descriptor_pb2
from google.protobuf.message import Message

from aegis.common.v1 import access_pb2
from aegis_client.core.values import time_limit

T = TypeVar("T")
Response = TypeVar("Response", bound=Message)

DEFAULT_TIMEOUT_S: Final = 30.0
"""Deadline of a method whose descriptor names none."""


@dataclass(frozen=True, slots=True)
class Method(Generic[Response]):
    """One rpc, as its descriptor tells it.

    Attributes:
        path: `/package.Service/Method`.
        response: Class of the answer.
        idempotent: True when sending the call again does no harm.
        default_timeout_s: Deadline of a call that brings none, in seconds.
        descriptor: The method's descriptor.
    """

    path: str
    response: type[Response]
    idempotent: bool
    default_timeout_s: float
    descriptor: descriptor.MethodDescriptor


def method(file: Any, service: str, name: str, response: type[Response]) -> Method[Response]:
    """Return the rpc *name* of *service* in the generated module *file*."""
    found = file.DESCRIPTOR.services_by_name[service].methods_by_name[name]
    if found.output_type.full_name != response.DESCRIPTOR.full_name:
        raise TypeError(f"{found.full_name} answers {found.output_type.full_name}")
    options = found.GetOptions()
    deadline = options.Extensions[access_pb2.deadline].default_timeout.ToTimedelta().total_seconds()
    return Method(
        f"/{found.containing_service.full_name}/{name}",
        response,
        options.idempotency_level != descriptor_pb2.MethodOptions.IDEMPOTENCY_UNKNOWN,
        deadline or DEFAULT_TIMEOUT_S,
        found,
    )


@dataclass(frozen=True, slots=True)
class Operation(Generic[T]):
    """One unary call.

    Attributes:
        method: The rpc.
        request: What is sent.
        read: Turns the answer into the result.
        timeout: Deadline of the whole call with its retries, in seconds; None means the method's default.
        harmless: Asks whether sending this call again does no harm, where its method alone does not tell.
    """

    method: Method[Any]
    request: Message
    read: Callable[[Any], T]
    timeout: float | None = None
    harmless: Operation[bool] | None = None

    def __post_init__(self) -> None:
        time_limit(self.timeout)


@dataclass(frozen=True, slots=True)
class Upload(Generic[T]):
    """A client stream with one answer.

    Attributes:
        method: The rpc.
        requests: Makes the messages, afresh for each attempt.
        read: Turns the answer into the result.
        timeout: Deadline of the whole upload with its retries, in seconds; None means the method's default.
        repeatable: Whether the messages can be made a second time.
    """

    method: Method[Any]
    requests: Callable[[], Iterator[Message]]
    read: Callable[[Any], T]
    timeout: float | None = None
    repeatable: bool = True

    def __post_init__(self) -> None:
        time_limit(self.timeout)


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a list. `token` is that of the next page, or empty on the last one."""

    items: Sequence[T]
    token: str


@dataclass(frozen=True, slots=True)
class Listing(Generic[T]):
    """A list that is fetched page by page; each page is an operation of its own."""

    fetch: Callable[[str], Operation[Page[T]]]


@dataclass(frozen=True, slots=True)
class Step(Generic[T]):
    """What one message of a stream means.

    Attributes:
        event: What the caller sees, or None.
        resume_token: Where to go on after this message; empty leaves the place as it was.
        last: True when the stream has told everything.
        reconnect: True when the server asks to call again.
    """

    event: T | None = None
    resume_token: str = ""
    last: bool = False
    reconnect: bool = False


@dataclass(frozen=True, slots=True)
class Watch(Generic[T]):
    """A server stream that goes on after a break.

    Attributes:
        method: The rpc.
        request: Makes the request that goes on after a resume token.
        read: Says what one message means.
        resume_token: Where to start, or empty for the beginning.
        timeout: Deadline of the whole watch, in seconds; None means none.
    """

    method: Method[Any]
    request: Callable[[str], Message]
    read: Callable[[Any], Step[T]]
    resume_token: str = ""
    timeout: float | None = None

    def __post_init__(self) -> None:
        time_limit(self.timeout)


@dataclass(frozen=True, slots=True)
class Feed(Generic[T]):
    """A server stream that is read once: sending it again would do the work again.

    Attributes:
        method: The rpc.
        request: What is sent.
        read: Says what one message means; raises what a message says went wrong.
        timeout: Deadline of the whole stream, in seconds; None means the method's default.
    """

    method: Method[Any]
    request: Message
    read: Callable[[Any], Step[T]]
    timeout: float | None = None

    def __post_init__(self) -> None:
        time_limit(self.timeout)

    @property
    def within(self) -> float:
        """Deadline of the whole stream, in seconds."""
        return self.method.default_timeout_s if self.timeout is None else self.timeout
