"""All four kinds of method, on server and client: results, refusals, errors, spans, cancellation, drain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import pytest
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.trace import SpanKind

from aegis_common.errors import AegisError, ErrorKind, InvalidArgument
from aegis_common.rpc.access import MethodRule
from aegis_common.rpc.call import current_call
from aegis_common.rpc.chain import Chain, ChainInterceptor
from aegis_common.rpc.channel import MeshChannel, mesh_channel
from aegis_common.rpc.errors import details_of
from aegis_common.rpc.layers import DeadlineLayer, ErrorLayer, TelemetryLayer
from aegis_common.telemetry import Telemetry, setup_telemetry
from aegis_common.testing.pki import Mesh
from aegis_common.testing.waiting import until
from aegis_common.tls import IdentityFiles, server_credentials

KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
PATIENCE_S = 10.0


class Gone(AegisError):
    kind = ErrorKind.NOT_FOUND
    reason = "GONE"


@dataclass
class Handlers:
    """One method of each kind; what it does depends on the first message that it gets."""

    stopped: asyncio.Event = field(default_factory=asyncio.Event)

    async def _act(self, request: bytes) -> bytes:
        match request:
            case b"gone":
                raise Gone("it is gone")
            case b"crash":
                raise RuntimeError("secret")
            case b"wait":
                try:
                    await asyncio.sleep(60)
                finally:
                    self.stopped.set()
        return request + current_call().rule.method.encode()

    async def unary(self, request: Any, context: Any) -> bytes:
        if isinstance(request, bytes):
            return await self._act(request)
        return b"".join([await self._act(message) async for message in request])

    async def stream(self, request: Any, context: Any) -> AsyncIterator[bytes]:
        if isinstance(request, bytes):
            yield await self._act(request)
            return
        async for message in request:
            yield await self._act(message)


class Spans(SpanProcessor):
    def __init__(self) -> None:
        self.started = 0
        self.ended: list[ReadableSpan] = []

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        self.started += 1

    def on_end(self, span: ReadableSpan) -> None:
        self.ended.append(span)


def _refuse_bad(request: Any) -> None:
    if request == b"bad":
        raise InvalidArgument("bad message")


@dataclass
class World:
    handlers: Handlers
    channel: MeshChannel
    spans: Spans

    def call(self, kind: str, *messages: bytes, timeout: float = 30) -> Any:
        method = getattr(self.channel, kind)(f"/t.T/{kind}")
        request = _each(messages) if kind.startswith("stream") else messages[0]
        return method(request, timeout=timeout)

    async def result(self, kind: str, *messages: bytes, within: float = 30) -> list[bytes]:
        call = self.call(kind, *messages, timeout=within)
        return [item async for item in call] if kind.endswith("stream") else [await call]

    async def settled(self) -> dict[SpanKind, list[str]]:
        """Wait until every span has ended, and return the codes by kind of span."""
        await until(lambda: len(self.spans.ended) >= self.spans.started)
        codes: dict[SpanKind, list[str]] = {}
        for span in self.spans.ended:
            code = (span.attributes or {}).get("rpc.response.status_code")
            codes.setdefault(span.kind, []).append(str(code))
        return codes


async def _each(messages: tuple[bytes, ...]) -> AsyncIterator[bytes]:
    for message in messages:
        yield message


@pytest.fixture
def spans() -> Spans:
    return Spans()


@pytest.fixture
def telemetry(spans: Spans) -> Any:
    made = setup_telemetry("test", span_processors=[spans])
    yield made
    made.shutdown()


@pytest.fixture
async def world(tmp_path: Any, telemetry: Telemetry, spans: Spans) -> AsyncIterator[World]:
    mesh, handlers = Mesh(tmp_path), Handlers()
    table = {f"/t.T/{kind}": MethodRule(f"/t.T/{kind}", public=True) for kind in KINDS}
    layers = (TelemetryLayer(telemetry, table), ErrorLayer(), DeadlineLayer())
    server = grpc.aio.server(interceptors=[ChainInterceptor(Chain(table, layers), _refuse_bad)])
    methods = {}
    for kind in KINDS:
        make: Callable[..., Any] = getattr(grpc, f"{kind}_rpc_method_handler")
        methods[kind] = make(handlers.stream if kind.endswith("stream") else handlers.unary)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.T", methods),))
    port = server.add_secure_port("127.0.0.1:0", server_credentials(IdentityFiles.of(mesh.tls("carbon"))))
    await server.start()
    target = f"127.0.0.1:{port}"
    async with mesh_channel(target, service="carbon", tls=mesh.tls("sdk"), telemetry=telemetry) as channel:
        yield World(handlers, channel, spans)
    await server.stop(0)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_call_gives_its_result_and_one_span_on_each_side(world: World, kind: str) -> None:
    result = await world.result(kind, b"a")
    codes = await world.settled()

    assert [b"a" + kind.encode()] == result
    assert {SpanKind.SERVER: ["OK"], SpanKind.CLIENT: ["OK"]} == codes


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("message", "reason", "code"), [(b"gone", "GONE", "NOT_FOUND"), (b"crash", "INTERNAL", "INTERNAL")]
)
async def test_an_error_has_its_code_and_reason(
    world: World, kind: str, message: bytes, reason: str, code: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await world.result(kind, message)
    codes = await world.settled()

    assert reason == details_of(caught.value).reason
    assert "secret" not in str(caught.value.details())
    assert {SpanKind.SERVER: [code], SpanKind.CLIENT: [code]} == codes


@pytest.mark.parametrize("kind", KINDS)
async def test_every_message_of_a_request_is_checked(world: World, kind: str) -> None:
    messages = (b"a", b"bad") if kind.startswith("stream") else (b"bad",)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await world.result(kind, *messages)

    assert grpc.StatusCode.INVALID_ARGUMENT == caught.value.code()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_deadline_stops_the_handler(world: World, kind: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await world.result(kind, b"wait", within=0.3)
    codes = await world.settled()

    assert grpc.StatusCode.DEADLINE_EXCEEDED == caught.value.code()
    assert world.handlers.stopped.is_set()
    assert ["DEADLINE_EXCEEDED"] == codes[SpanKind.CLIENT]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_cancelled_call_stops_the_handler_and_ends_its_spans(world: World, kind: str) -> None:
    task = asyncio.create_task(world.result(kind, b"wait"))
    await until(lambda: world.spans.started == 2)
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(PATIENCE_S):
        await world.handlers.stopped.wait()

    assert ["CANCELLED"] == (await world.settled())[SpanKind.CLIENT]


async def test_a_stream_that_is_left_early_ends_its_spans(world: World) -> None:
    call = world.call("stream_stream", *(b"a" for _ in range(500)))
    async for _ in call:
        break
    call.cancel()

    assert 1 == len((await world.settled())[SpanKind.SERVER])


async def test_read_and_write_work_as_well_as_iterators(world: World) -> None:
    call = world.channel.stream_stream("/t.T/stream_stream")(timeout=10)
    await call.write(b"a")
    first = await call.read()
    await call.done_writing()

    assert b"astream_stream" == first
    assert grpc.StatusCode.OK == await call.code()
    assert ["OK"] == (await world.settled())[SpanKind.CLIENT]
