"""Sends calls over a channel of grpc.aio; the same decisions as in `synchronous`, awaited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from aegis_client.core.connection import Connection
from aegis_client.core.operation import Feed, Listing, Method, Operation, Upload, Watch
from aegis_client.core.retry import Attempts, Course, RetryPolicy, told_as_broken
from aegis_client.core.status import api_error
from aegis_client.core.synchronous import Source, ended_early, serialized
from aegis_client.errors import AegisApiError
from aegis_client.profiles import Profile
from aegis_client.trace import begin_call

T = TypeVar("T")


class AsyncTransport:
    """One connection for all groups of calls of an `AsyncClient`; belongs to the loop of its first call."""

    def __init__(self, profile: Profile, policy: RetryPolicy) -> None:
        self.profile = profile
        self._connection = Connection(profile, grpc.aio.secure_channel)
        self._policy = policy

    async def call(self, operation: Operation[T]) -> T:
        return await self._call(operation, begin_call())

    async def _call(self, operation: Operation[T], trace_id: str) -> T:
        attempts = Attempts(operation, self._policy)
        while True:
            try:
                return operation.read(await self._unary(operation, trace_id, attempts.remaining))
            except grpc.RpcError as error:
                failed = api_error(error, trace_id)
                if (question := attempts.question(failed)) is not None:
                    attempts.harmless = await self._answer(question, trace_id)
                pause = attempts.pause(failed)
            await asyncio.sleep(pause)

    async def _answer(self, question: Operation[bool], trace_id: str) -> bool:
        try:
            return await self._call(question, trace_id)
        except AegisApiError:
            return False

    async def send(self, upload: Upload[T]) -> T:
        trace_id = begin_call()
        attempts = Attempts(upload, self._policy)
        while True:
            source = Source(upload.requests())
            try:
                answer: Any = await self._client_stream(upload.method, source, trace_id, attempts.remaining)
                return upload.read(answer)
            except grpc.RpcError as error:
                if source.error is not None:
                    raise source.error from error
                pause = attempts.pause(api_error(error, trace_id))
            except asyncio.CancelledError:
                if source.error is not None:  # it ended the call, nobody cancelled us
                    raise source.error from None
                raise
            await asyncio.sleep(pause)

    def iterate(self, described: Listing[T] | Watch[T] | Feed[T]) -> AsyncGenerator[T]:
        if isinstance(described, Feed):
            return self._feed(described)
        return self._pages(described) if isinstance(described, Listing) else self._watch(described)

    async def close(self) -> None:
        channel = self._connection.shut()
        if channel is not None:
            await channel.close()

    async def _pages(self, listing: Listing[T]) -> AsyncGenerator[T]:
        page = await self.call(listing.fetch(""))
        for item in page.items:
            yield item
        while page.token:
            page = await self.call(listing.fetch(page.token))
            for item in page.items:
                yield item

    async def _watch(self, watch: Watch[T]) -> AsyncGenerator[T]:
        trace_id = begin_call()
        course = Course(watch, self._policy)
        while True:
            broken: AegisApiError | None = None
            try:
                stream = self._stream(watch.method, course.request, course.remaining, trace_id)
                async with aclosing(stream) as messages:
                    async for message in messages:
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
            await asyncio.sleep(course.pause(broken))

    async def _feed(self, feed: Feed[T]) -> AsyncGenerator[T]:
        trace_id = begin_call()
        try:
            stream = self._stream(feed.method, feed.request, feed.within, trace_id)
            async with aclosing(stream) as messages:
                async for message in messages:
                    step = feed.read(message)
                    if step.event is not None:
                        yield step.event
                    if step.last:
                        return
        except grpc.RpcError as error:
            raise told_as_broken(api_error(error, trace_id)) from error
        raise ended_early(trace_id)

    async def _unary(self, operation: Operation[Any], trace_id: str, within: float) -> Any:
        method = operation.method
        async with self._channel() as channel:
            send = channel.unary_unary(
                method.path,
                request_serializer=type(operation.request).SerializeToString,
                response_deserializer=method.response.FromString,
            )
            return await send(operation.request, timeout=within, metadata=self._connection.metadata(trace_id))

    async def _client_stream(self, method: Method[Any], source: Source, trace_id: str, within: float) -> Any:
        async with self._channel() as channel:
            send = channel.stream_unary(
                method.path,
                request_serializer=serialized,
                response_deserializer=method.response.FromString,
            )
            messages = _in_thread(source)
            return await send(messages, timeout=within, metadata=self._connection.metadata(trace_id))

    async def _stream(
        self, method: Method[Any], request: Message, within: float, trace_id: str
    ) -> AsyncGenerator[Any]:
        async with self._channel() as channel:
            send = channel.unary_stream(
                method.path,
                request_serializer=type(request).SerializeToString,
                response_deserializer=method.response.FromString,
            )
            call = send(request, timeout=within, metadata=self._connection.metadata(trace_id))
            try:
                async for message in call:
                    yield message
            finally:
                call.cancel()

    @asynccontextmanager
    async def _channel(self) -> AsyncIterator[grpc.aio.Channel]:
        lease, idle = self._connection.acquire()
        try:
            if idle is not None:
                await idle.close()
            yield lease.channel
        finally:
            idle = self._connection.release(lease)
            if idle is not None:
                await idle.close()


async def _in_thread(source: Source) -> AsyncIterator[Any]:
    """Return the messages of *source*, each made in a thread: making one may read a file."""
    while (message := await asyncio.to_thread(next, source, None)) is not None:
        yield message
