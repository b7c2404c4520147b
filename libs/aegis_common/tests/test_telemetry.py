from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from concurrent import futures
from contextlib import aclosing

import grpc
import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from aegis_common.errors import ConfigurationError
from aegis_common.telemetry import Telemetry, inject, setup_telemetry
from aegis_common.tracecontext import format_traceparent, parse_traceparent

METHOD = "/aegis.carbon.v1.CarbonService/CheckSchedule"
NAME = METHOD[1:]
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


class Spans(InMemorySpanExporter):
    """Keeps ended spans in memory."""

    def only(self) -> ReadableSpan:
        (span,) = self.get_finished_spans()
        return span


@pytest.fixture
def spans() -> Spans:
    return Spans()


@pytest.fixture
def telemetry(spans: Spans) -> Iterator[Telemetry]:
    made = setup_telemetry("carbon", span_processors=[SimpleSpanProcessor(spans)])
    yield made
    made.shutdown()


def count(telemetry: Telemetry, metric: str, **labels: str) -> float:
    """Return the number of entries in the histogram *metric* with exactly *labels*."""
    wanted = {("rpc_system_name", "grpc"), *labels.items()}
    for line in telemetry.metrics_text().decode().splitlines():
        match = re.fullmatch(rf"{metric}_seconds_count{{(.*)}} (.*)", line)
        if match and set(re.findall(r'(\w+)="([^"]+)"', match[1])) == wanted:
            return float(match[2])
    return 0


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "nonsense",
        PARENT.upper(),
        PARENT + "-extra",
        PARENT[:-1],
        "ff" + PARENT[2:],
        f"00-{'0' * 32}-b7ad6b7169203331-01",
        f"00-{TRACE}-{'0' * 16}-01",
        " " + PARENT,
        PARENT + "\n",
    ],
)
def test_what_is_no_traceparent_is_none(text: str | None) -> None:
    assert parse_traceparent(text) is None


@pytest.mark.parametrize(
    ("text", "written"),
    [
        (PARENT, PARENT),
        (PARENT[:-2] + "00", PARENT[:-2] + "00"),
        (PARENT[:-2] + "ff", PARENT[:-2] + "03"),
        ("cc" + PARENT[2:] + "-future", PARENT),
    ],
)
def test_a_traceparent_is_read_and_written(text: str, written: str) -> None:
    context = parse_traceparent(text)

    assert context is not None
    assert context.is_remote
    assert format_traceparent(context) == written


def test_the_context_of_no_span_has_no_traceparent() -> None:
    assert format_traceparent(trace.INVALID_SPAN_CONTEXT) == ""
    assert inject() == ""


def test_a_server_span_continues_the_callers_trace(telemetry: Telemetry, spans: Spans) -> None:
    with telemetry.server_span(METHOD, PARENT, {"aegis.tenant": "acme"}) as span:
        assert inject() == span.traceparent == f"00-{TRACE}-{span.span_id}-01"
    ended = spans.only()

    assert span.trace_id == TRACE
    assert ended.parent is not None
    assert ended.parent.span_id == 0xB7AD6B7169203331
    assert (ended.name, ended.kind) == (NAME, SpanKind.SERVER)
    assert dict(ended.attributes or {}) == {
        "aegis.tenant": "acme",
        "rpc.system.name": "grpc",
        "rpc.method": NAME,
        "rpc.response.status_code": "OK",
    }
    assert inject() == ""


def test_a_wrong_traceparent_begins_a_new_sampled_trace(telemetry: Telemetry, spans: Spans) -> None:
    with telemetry.server_span(METHOD, "00-zz") as span:
        pass

    assert spans.only().parent is None
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[13]", span.traceparent)


def test_trace_ids_are_made_without_any_exporter() -> None:
    telemetry = setup_telemetry("carbon")

    with telemetry.server_span(METHOD) as one, telemetry.server_span(METHOD) as other:
        assert one.trace_id != other.trace_id
        assert parse_traceparent(one.traceparent) is not None
        assert trace.get_current_span().get_span_context().trace_flags.sampled
    telemetry.shutdown()


@pytest.mark.parametrize("flags", ["00", "01"])
def test_without_any_receiver_the_trace_and_its_sampling_go_on(flags: str) -> None:
    telemetry = setup_telemetry("carbon")
    parent = f"00-{'ab' * 16}-{'cd' * 8}-{flags}"
    with telemetry.server_span("/x/Y", parent) as span, telemetry.client_span("/x/Z") as inner:
        pass
    telemetry.shutdown()

    for one in (span, inner):
        assert ("00", "ab" * 16, flags) == tuple(one.traceparent.split("-")[place] for place in (0, 1, 3))
    assert len({"cd" * 8, span.span_id, inner.span_id}) == 3


def test_the_callers_wish_not_to_be_sampled_is_passed_on(telemetry: Telemetry, spans: Spans) -> None:
    with telemetry.server_span(METHOD, PARENT[:-2] + "00") as span:
        assert inject().endswith("-00")

    assert span.trace_id == TRACE
    assert spans.get_finished_spans() == ()
    assert count(telemetry, "rpc_server_call_duration", rpc_method=NAME, rpc_response_status_code="OK") == 1


def test_a_client_span_is_the_child_of_the_current_one(telemetry: Telemetry, spans: Spans) -> None:
    with telemetry.server_span(METHOD) as server, telemetry.client_span("/x.Y/Z") as client:
        assert inject() == client.traceparent
    child, parent = spans.get_finished_spans()

    assert client.trace_id == server.trace_id
    assert child.parent is not None
    assert child.parent.span_id == parent.context.span_id
    assert child.kind == SpanKind.CLIENT


@pytest.mark.parametrize(
    ("code", "server_failed", "client_failed"),
    [("OK", False, False)]
    + [(code, False, True) for code in ("NOT_FOUND", "CANCELLED", "UNAUTHENTICATED", "RESOURCE_EXHAUSTED")]
    + [(code, True, True) for code in ("UNKNOWN", "INTERNAL", "UNAVAILABLE", "DEADLINE_EXCEEDED")]
    + [(code, True, True) for code in ("UNIMPLEMENTED", "DATA_LOSS")],
)
def test_only_faults_of_the_server_mark_its_span(
    telemetry: Telemetry, spans: Spans, code: str, server_failed: bool, client_failed: bool
) -> None:
    with telemetry.server_span(METHOD) as span:
        span.set_status(code)
    with telemetry.client_span(METHOD) as span:
        span.set_status(code)
    server, client = spans.get_finished_spans()

    for ended, failed in ((server, server_failed), (client, client_failed)):
        attributes = ended.attributes or {}
        assert ended.status.status_code == (StatusCode.ERROR if failed else StatusCode.UNSET)
        assert attributes["rpc.response.status_code"] == code
        assert attributes.get("error.type") == (code if failed else None)


def test_durations_are_counted_by_method_and_code(telemetry: Telemetry) -> None:
    for code in ("OK", "OK", "INTERNAL"):
        with telemetry.server_span(METHOD) as span:
            span.set_status(code)
    with telemetry.client_span("/x.Y/Z"):
        pass
    labels = {"rpc_method": NAME, "rpc_response_status_code": "INTERNAL", "error_type": "INTERNAL"}

    assert count(telemetry, "rpc_server_call_duration", rpc_method=NAME, rpc_response_status_code="OK") == 2
    assert count(telemetry, "rpc_server_call_duration", **labels) == 1
    assert (
        count(telemetry, "rpc_client_call_duration", rpc_method="x.Y/Z", rpc_response_status_code="OK") == 1
    )


def test_made_up_methods_make_no_time_series(telemetry: Telemetry, spans: Spans) -> None:
    for method in ("/a/b", "/c/d"):
        with telemetry.server_span(method, known=False) as span:
            span.set_status("UNIMPLEMENTED")
    labels = {"rpc_response_status_code": "UNIMPLEMENTED", "error_type": "UNIMPLEMENTED"}

    assert count(telemetry, "rpc_server_call_duration", rpc_method="_OTHER", **labels) == 2
    assert [(s.name, (s.attributes or {})["rpc.method_original"]) for s in spans.get_finished_spans()] == [
        ("grpc", "a/b"),
        ("grpc", "c/d"),
    ]


def test_an_uncaught_exception_is_one_event_and_unknown(telemetry: Telemetry, spans: Spans) -> None:
    error = ValueError("boom")
    with pytest.raises(ValueError, match="boom"), telemetry.server_span(METHOD) as span:
        span.record_exception(error)
        raise error
    ended = spans.only()

    assert [event.name for event in ended.events] == ["exception"]
    assert ended.status.status_code == StatusCode.ERROR
    assert (ended.attributes or {})["rpc.response.status_code"] == "UNKNOWN"


def test_the_status_that_was_set_stays_when_an_exception_passes(telemetry: Telemetry, spans: Spans) -> None:
    with pytest.raises(ValueError, match="boom"), telemetry.server_span(METHOD) as span:
        span.set_status("NOT_FOUND")
        raise ValueError("boom")

    assert (spans.only().attributes or {})["rpc.response.status_code"] == "NOT_FOUND"
    assert spans.only().status.status_code == StatusCode.UNSET


async def test_a_cancelled_call_ends_as_cancelled_without_an_event(
    telemetry: Telemetry, spans: Spans
) -> None:
    async def handler() -> None:
        with telemetry.server_span(METHOD):
            await asyncio.sleep(60)

    task = asyncio.create_task(handler())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    ended = spans.only()

    assert (ended.attributes or {})["rpc.response.status_code"] == "CANCELLED"
    assert (ended.events, ended.status.status_code) == ((), StatusCode.UNSET)


def test_a_span_ends_once(telemetry: Telemetry, spans: Spans) -> None:
    span = telemetry.start_client_span(METHOD)

    span.end("UNAVAILABLE")
    span.end("OK")

    assert span.code == "UNAVAILABLE"
    assert len(spans.get_finished_spans()) == 1


async def test_a_generator_closed_elsewhere_leaves_no_span_behind(
    telemetry: Telemetry, spans: Spans, caplog: pytest.LogCaptureFixture
) -> None:
    async def stream() -> AsyncIterator[str]:
        with telemetry.server_span(METHOD) as span:
            yield span.trace_id
            yield span.trace_id

    handler = stream()
    await asyncio.create_task(anext(handler))  # type: ignore[arg-type]
    async with aclosing(handler):  # type: ignore[type-var]
        pass

    assert len(spans.get_finished_spans()) == 1
    assert inject() == ""
    assert caplog.records == []


async def test_concurrent_calls_keep_their_spans_apart(telemetry: Telemetry) -> None:
    async def handler() -> tuple[str, str]:
        with telemetry.server_span(METHOD) as span:
            await asyncio.sleep(0)
            return span.traceparent, inject()

    pairs = await asyncio.gather(*(handler() for _ in range(20)))

    assert all(own == seen for own, seen in pairs)
    assert len({own for own, _ in pairs}) == 20


def test_gauges_report_what_their_callback_returns(telemetry: Telemetry) -> None:
    values = [7.0]
    telemetry.observe("aegis.tls.reload.failures", "1", "Failed reloads.", lambda: values[0])
    telemetry.observe(
        "aegis.tls.certificate.not_after",
        "s",
        "End of validity, Unix time.",
        lambda: [(100.0, {"file": "cert"}), (200.0, {"file": "bundle"})],
    )
    first = telemetry.metrics_text().decode()
    values[0] = 8

    assert re.search(r"^aegis_tls_reload_failures(_ratio)?(\{\})? 7\.0$", first, re.MULTILINE)
    assert 'aegis_tls_certificate_not_after_seconds{file="bundle"} 200.0' in first
    assert re.search(
        r"^aegis_tls_reload_failures(_ratio)?(\{\})? 8\.0$", telemetry.metrics_text().decode(), re.MULTILINE
    )


def test_two_servers_in_one_process_count_apart() -> None:
    one, other = setup_telemetry("a"), setup_telemetry("b")
    with one.server_span(METHOD), other.client_span(METHOD):
        pass

    assert count(one, "rpc_server_call_duration", rpc_method=NAME, rpc_response_status_code="OK") == 1
    assert count(other, "rpc_server_call_duration", rpc_method=NAME, rpc_response_status_code="OK") == 0
    assert 'service_name="aegis-b"' in other.metrics_text().decode()
    one.shutdown()
    other.shutdown()


def test_scrapes_at_once_give_whole_answers(telemetry: Telemetry) -> None:
    with telemetry.server_span(METHOD):
        pass

    with futures.ThreadPoolExecutor(4) as pool:
        texts = [future.result() for future in [pool.submit(telemetry.metrics_text) for _ in range(40)]]

    assert all(text.count(b"# TYPE rpc_server_call_duration_seconds histogram") == 1 for text in texts)


@pytest.mark.parametrize(
    "endpoint", ["http://collector:4317", "collector:4317", "ftp://x", "grpc://127.0.0.1:4317"]
)
def test_telemetry_leaves_the_machine_encrypted_only(endpoint: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        setup_telemetry("carbon", endpoint)

    assert caught.value.metadata == {"otlp_endpoint": endpoint}


class Collector(trace_service_pb2_grpc.TraceServiceServicer, metrics_service_pb2_grpc.MetricsServiceServicer):
    """An OTLP receiver; both services have the method Export."""

    def __init__(self) -> None:
        self.spans: list[bytes] = []
        self.metrics: list[str] = []

    def Export(self, request, context):  # type: ignore[no-untyped-def]
        if isinstance(request, trace_service_pb2.ExportTraceServiceRequest):
            self.spans += [s.trace_id for r in request.resource_spans for c in r.scope_spans for s in c.spans]
            return trace_service_pb2.ExportTraceServiceResponse()
        self.metrics += [m.name for r in request.resource_metrics for c in r.scope_metrics for m in c.metrics]
        return metrics_service_pb2.ExportMetricsServiceResponse()


def test_spans_and_metrics_reach_a_collector() -> None:
    collector, server = Collector(), grpc.server(futures.ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]
    metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    telemetry = setup_telemetry("carbon", f"http://127.0.0.1:{port}")

    with telemetry.server_span(METHOD, PARENT):
        pass
    telemetry.shutdown()
    server.stop(None).wait()

    assert collector.spans == [bytes.fromhex(TRACE)]
    assert "rpc.server.call.duration" in collector.metrics
