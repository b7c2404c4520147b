"""Sends calls over a blocking channel."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from aegis_client.core.connection import Connection
from aegis_client.core.operation import Feed, Listing, Method, Operation, Upload, Watch
from aegis_client.core.retry import Attempts, Course, RetryPolicy, told_as_broken
from aegis_client.core.status import api_error
from aegis_client.errors import AegisApiError, Unavailable
from aegis_client.profiles import Profile
from aegis_client.trace import begin_call

T = TypeVar("T")


class SyncTransport:
    """One connection for all groups of calls of a `Client`; safe to use from several threads."""

    def __init__(self, profile: Profile, policy: RetryPolicy) -> None:
        self.profile = profile
        self._connection = Connection(profile, grpc.secure_channel)
        self._policy = policy

    def call(self, operation: Operation[T]) -> T:
        return self._call(operation, begin_call())

    def _call(self, operation: Operation[T], trace_id: str) -> T:
        attempts = Attempts(operation, self._policy)
        while True:
            try:
                return operation.read(self._unary(operation, trace_id, attempts.remaining))
            except grpc.RpcError as error:
                failed = api_error(error, trace_id)
                if (question := attempts.question(failed)) is not None:
                    attempts.harmless = self._answer(question, trace_id)
                pause = attempts.pause(failed)
            time.sleep(pause)

    def _answer(self, question: Operation[bool], trace_id: str) -> bool:
        try:
            return self._call(question, trace_id)
        except AegisApiError:
            return False

    def send(self, upload: Upload[T]) -> T:
        trace_id = begin_call()
        attempts = Attempts(upload, self._policy)
        while True:
            source = Source(upload.requests())
            try:
                return upload.read(self._client_stream(upload.method, source, trace_id, attempts.remaining))
            except grpc.RpcError as error:
                if source.error is not None:
                    raise source.error from error
                pause = attempts.pause(api_error(error, trace_id))
            time.sleep(pause)

    def iterate(self, described: Listing[T] | Watch[T] | Feed[T]) -> Generator[T]:
        if isinstance(described, Feed):
            return self._feed(described)
        return self._pages(described) if isinstance(described, Listing) else self._watch(described)

    def close(self) -> None:
        channel = self._connection.shut()
        if channel is not None:
            channel.close()

    def _pages(self, listing: Listing[T]) -> Generator[T]:
        page = self.call(listing.fetch(""))
        yield from page.items
        while page.token:
            page = self.call(listing.fetch(page.token))
            yield from page.items

    def _watch(self, watch: Watch[T]) -> Generator[T]:
        trace_id = begin_call()
        course = Course(watch, self._policy)
        while True:
            broken: AegisApiError | None = None
            try:
                with closing(
                    self._stream(watch.method, course.request, course.remaining, trace_id)
                ) as messages:
                    for message in messages:
                        step = course.take(message)
                        if step.event is not None:
                            yield step.event
                        if step.last:
                            return
                        if step.reconnect:
                            break
                    else:
                        broken = ended_early(trace_id)
            except grpc.RpcError as error:
                broken = api_error(error, trace_id)
            time.sleep(course.pause(broken))

    def _feed(self, feed: Feed[T]) -> Generator[T]:
        trace_id = begin_call()
        try:
            with closing(self._stream(feed.method, feed.request, feed.within, trace_id)) as messages:
                for message in messages:
                    step = feed.read(message)
                    if step.event is not None:
                        yield step.event
                    if step.last:
                        return
        except grpc.RpcError as error:
            raise told_as_broken(api_error(error, trace_id)) from error
        raise ended_early(trace_id)

    def _unary(self, operation: Operation[Any], trace_id: str, timeout: float) -> Any:
        method = operation.method
        with self._channel() as channel:
            send = channel.unary_unary(
                method.path,
                request_serializer=type(operation.request).SerializeToString,
                response_deserializer=method.response.FromString,
            )
            return send(operation.request, timeout=timeout, metadata=self._connection.metadata(trace_id))

    def _client_stream(self, method: Method[Any], source: Source, trace_id: str, timeout: float) -> Any:
        with self._channel() as channel:
            send = channel.stream_unary(
                method.path,
                request_serializer=serialized,
                response_deserializer=method.response.FromString,
            )
            return send(source, timeout=timeout, metadata=self._connection.metadata(trace_id))

    def _stream(self, method: Method[Any], request: Message, timeout: float, trace_id: str) -> Generator[Any]:
        with self._channel() as channel:
            send = channel.unary_stream(
                method.path,
                request_serializer=type(request).SerializeToString,
                response_deserializer=method.response.FromString,
            )
            call = send(request, timeout=timeout, metadata=self._connection.metadata(trace_id))
            try:
                yield from call
            finally:
                call.cancel()

    @contextmanager
    def _channel(self) -> Iterator[grpc.Channel]:
        lease, idle = self._connection.acquire()
        try:
            if idle is not None:
                idle.close()
            yield lease.channel
        finally:
            idle = self._connection.release(lease)
            if idle is not None:
                idle.close()


class Source:
    """The messages of an upload. gRPC only logs what goes wrong in making them, so it is kept here."""

    def __init__(self, messages: Iterator[Message]) -> None:
        self._messages = messages
        self.error: Exception | None = None

    def __iter__(self) -> Iterator[Message]:
        return self

    def __next__(self) -> Message:
        try:
            return next(self._messages)
        except StopIteration:
            raise
        except Exception as error:
            self.error = error
            raise


def serialized(message: Message) -> bytes:
    return message.SerializeToString()


def ended_early(trace_id: str) -> Unavailable:
    """Return the error of a stream that closed without its terminal event."""
    return Unavailable("the stream ended before its last event", code="UNAVAILABLE", trace_id=trace_id)
