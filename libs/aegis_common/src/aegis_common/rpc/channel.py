"""The mesh channel: mutual TLS that follows its files, deadlines, traces, and the caller's identity."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Coroutine, Sequence
from typing import Any, Final, Self

import grpc
import grpc.aio

from aegis_common.rpc.access import MethodRule, method_table
from aegis_common.rpc.limits import METADATA_OPTIONS
from aegis_common.rpc.outgoing import TRACEPARENT, identity_metadata, parent_trace, timeout_for
from aegis_common.rpc_span import RpcSpan
from aegis_common.settings import TlsSettings
from aegis_common.telemetry import Telemetry
from aegis_common.tls import CertificateWatcher, IdentityFiles, Material, channel_credentials, server_dns

_RETRY: Final = {
    "maxAttempts": 4,
    "initialBackoff": "0.05s",
    "maxBackoff": "1s",
    "backoffMultiplier": 3,
    "retryableStatusCodes": ["UNAVAILABLE"],
}


def mesh_channel(
    target: str, *, service: str, tls: TlsSettings, telemetry: Telemetry | None = None
) -> MeshChannel:
    """Return a channel to *service* at *target* (`host:port`), pinned to that service's own certificate.

    A call without a timeout gets the method's default; none outlives the call that it is made for. Methods
    that are idempotent are retried on UNAVAILABLE, within the deadline.
    """
    return MeshChannel(target, server_dns(service, tls.namespace), IdentityFiles.of(tls), telemetry)


class MeshChannel(grpc.aio.Channel):
    """A grpc.aio channel whose credentials change when their files do.

    A gRPC channel keeps the certificate that it was made with; so this one makes a new channel beneath
    itself, sends new calls there, and closes the old one when its calls have ended.
    """

    def __init__(
        self, target: str, server_name: str, files: IdentityFiles, telemetry: Telemetry | None
    ) -> None:
        self._target, self._files, self._telemetry = target, files, telemetry
        self._options = [
            ("grpc.ssl_target_name_override", server_name),
            ("grpc.service_config", _service_config()),
            ("grpc.max_receive_message_length", 64 << 20),
            # A replica that comes back is found soon, however long it was away.
            ("grpc.initial_reconnect_backoff_ms", 200),
            ("grpc.max_reconnect_backoff_ms", 2000),
            *METADATA_OPTIONS,
        ]
        self._inner = self._connect(files.latest())
        self._retired: set[grpc.aio.Channel] = set()
        self._running: Counter[grpc.aio.Channel] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._watcher: asyncio.Task[None] | None = None

    def _connect(self, material: Material) -> grpc.aio.Channel:
        return grpc.aio.secure_channel(self._target, channel_credentials(material), self._options)

    async def _watch(self) -> None:
        async with CertificateWatcher(self._files, self._swap):
            await asyncio.Event().wait()

    def _swap(self, material: Material) -> None:
        old, self._inner = self._inner, self._connect(material)
        # Closing cancels what still runs, and a cancelled call looks to its caller like a cancelled task:
        # so it waits for the last call, which its deadline ends.
        self._retired.add(old)
        self._close_if_idle(old)

    def track(self, inner: grpc.aio.Channel, call: grpc.aio.Call) -> None:
        """Keep *inner* open until *call*, which goes through it, has ended."""
        self._running[inner] += 1
        call.add_done_callback(lambda _: self._ended(inner))

    def _ended(self, inner: grpc.aio.Channel) -> None:
        self._running[inner] -= 1
        self._close_if_idle(inner)

    def _close_if_idle(self, inner: grpc.aio.Channel) -> None:
        if self._running[inner] == 0:
            del self._running[inner]
            if inner in self._retired:
                self._retired.discard(inner)
                self.spawn(inner.close(None))

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run *work* beside the calls, and let nobody collect it half done."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def inner(self) -> grpc.aio.Channel:
        """Return the channel for a new call; the first call starts the watch over the files."""
        if self._watcher is None:
            self._watcher = self.spawn(self._watch())
        return self._inner

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close(None)

    async def close(self, grace: float | None = None) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
        for channel in (*self._retired, self._inner):
            await channel.close(grace)
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._inner.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._inner.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self.inner().channel_ready()

    def _callable(self, kind: str, method: str | bytes, serializer: Any, deserializer: Any) -> Any:
        path = method.decode() if isinstance(method, bytes) else method
        return _MultiCallable(self, kind, path, serializer, deserializer, self._telemetry)

    def unary_unary(self, method: Any, *args: Any, **kwargs: Any) -> Any:
        return self._callable("unary_unary", method, *_codec(args, kwargs))

    def unary_stream(self, method: Any, *args: Any, **kwargs: Any) -> Any:
        return self._callable("unary_stream", method, *_codec(args, kwargs))

    def stream_unary(self, method: Any, *args: Any, **kwargs: Any) -> Any:
        return self._callable("stream_unary", method, *_codec(args, kwargs))

    def stream_stream(self, method: Any, *args: Any, **kwargs: Any) -> Any:
        return self._callable("stream_stream", method, *_codec(args, kwargs))


def _codec(args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    serializer, deserializer, *_ = (*args, None, None)
    return kwargs.get("request_serializer", serializer), kwargs.get("response_deserializer", deserializer)


class _MultiCallable:
    """One method of a MeshChannel; each call goes through the channel that is current then."""

    def __init__(
        self,
        channel: MeshChannel,
        kind: str,
        path: str,
        serializer: Any,
        deserializer: Any,
        telemetry: Telemetry | None,
    ) -> None:
        self._channel, self._kind, self._path = channel, kind, path
        self._serializer, self._deserializer = serializer, deserializer
        self._rule = method_table().get(path, MethodRule(path))
        self._telemetry = telemetry

    def __call__(
        self,
        request: Any = None,
        *,
        timeout: float | None = None,
        metadata: Sequence[tuple[str, str | bytes]] | None = None,
        **options: Any,
    ) -> Any:
        inner = self._channel.inner()
        make = getattr(inner, self._kind)(
            self._path, request_serializer=self._serializer, response_deserializer=self._deserializer
        )
        span = self._telemetry.start_client_span(self._path) if self._telemetry is not None else None
        traceparent = span.traceparent if span is not None else parent_trace()
        sent = [*(metadata or ()), *identity_metadata(self._rule)]
        if traceparent:
            sent.append((TRACEPARENT, traceparent))
        call = make(request, timeout=timeout_for(self._rule, timeout), metadata=tuple(sent), **options)
        self._channel.track(inner, call)
        if span is not None:
            call.add_done_callback(lambda done: self._channel.spawn(_end(span, done)))
        return call


async def _end(span: RpcSpan, call: Any) -> None:
    span.end((await call.code()).name)


def _service_config() -> str:
    names = [
        {"service": rule.service, "method": rule.method}
        for rule in method_table().values()
        if rule.idempotent and not (rule.client_streaming or rule.server_streaming)
    ]
    return json.dumps({"methodConfig": [{"name": names, "retryPolicy": _RETRY}]})
