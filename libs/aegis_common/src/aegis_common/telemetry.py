"""Traces and metrics of one process, apart from OpenTelemetry's globals, so that each server owns its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import CallbackOptions, Histogram, Meter, Observation
from opentelemetry.sdk.metrics import AlwaysOffExemplarFilter, MeterProvider, TraceBasedExemplarFilter
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, TraceFlags, Tracer
from prometheus_client import CollectorRegistry, generate_latest

from aegis_common.errors import ConfigurationError
from aegis_common.rpc_span import RpcSpan
from aegis_common.tracecontext import format_traceparent, parse_traceparent

if TYPE_CHECKING:
    from opentelemetry.util.types import AttributeValue

Attributes = Mapping[str, "AttributeValue"]
Observed = float | Iterable[tuple[float, Attributes]]
"""What a gauge's callback returns: one value, or one per set of attributes."""

SCOPE: Final = "aegis_common"
OTHER_METHOD: Final = "_OTHER"
_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
_DURATION_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 30, 60)


class Telemetry:
    """Spans and metrics of one process; made by `setup_telemetry`.

    Attributes:
        tracer: For spans of one's own.
        meter: For instruments of one's own; what they record is in `metrics_text()` too.
    """

    def __init__(
        self,
        tracers: TracerProvider,
        meters: MeterProvider,
        registry: CollectorRegistry,
        *,
        spans_received: bool,
    ) -> None:
        self._tracers = tracers
        self._spans_received = spans_received
        self._meters = meters
        self._registry = registry
        self._scrape = Lock()
        self.tracer: Final[Tracer] = tracers.get_tracer(SCOPE)
        self.meter: Final[Meter] = meters.get_meter(SCOPE)
        self._server_duration = _duration(self.meter, "rpc.server.call.duration", "incoming")
        self._client_duration = _duration(self.meter, "rpc.client.call.duration", "outgoing")

    def start_server_span(
        self,
        method: str,
        *,
        traceparent: str | None = None,
        attributes: Attributes | None = None,
        known: bool = True,
    ) -> RpcSpan:
        """Start the span of an incoming call; the caller must `end()` it.

        Args:
            method: `/package.Service/Method`.
            traceparent: Header of the call; when it is missing or not valid, a new trace begins.
            attributes: More attributes of the span; they are not put on the metric.
            known: False for a method that the server lacks: it is counted as `_OTHER`, so that callers
                cannot make up new time series.
        """
        remote = parse_traceparent(traceparent)
        parent = trace.set_span_in_context(NonRecordingSpan(remote), Context()) if remote else Context()
        return self._start(method, SpanKind.SERVER, self._server_duration, parent, attributes, known=known)

    def start_client_span(self, method: str, *, attributes: Attributes | None = None) -> RpcSpan:
        """Start the span of an outgoing call, a child of the current one; the caller must `end()` it."""
        parent = otel_context.get_current()
        return self._start(method, SpanKind.CLIENT, self._client_duration, parent, attributes, known=True)

    @contextmanager
    def server_span(
        self,
        method: str,
        traceparent: str | None = None,
        attributes: Attributes | None = None,
        *,
        known: bool = True,
    ) -> Iterator[RpcSpan]:
        """Span of an incoming call, current within the block and ended with it; see `start_server_span`."""
        span = self.start_server_span(method, traceparent=traceparent, attributes=attributes, known=known)
        with _ended(span), span.current():
            yield span

    @contextmanager
    def client_span(self, method: str, attributes: Attributes | None = None) -> Iterator[RpcSpan]:
        """Span of an outgoing call, current within the block and ended with it."""
        span = self.start_client_span(method, attributes=attributes)
        with _ended(span), span.current():
            yield span

    def observe(self, name: str, unit: str, description: str, callback: Callable[[], Observed]) -> None:
        """Report what *callback* returns, each time that metrics are collected.

        Args:
            name: Dotted name, for example `aegis.tls.certificate.not_after`.
            unit: UCUM unit, for example `s`, or `1` for a count.
            description: One sentence for the reader of `/metrics`.
            callback: Quick and thread-safe; collected from any thread.
        """

        def observations(_: CallbackOptions) -> list[Observation]:
            value = callback()
            if isinstance(value, int | float):
                return [Observation(value)]
            return [Observation(number, dict(attributes)) for number, attributes in value]

        self.meter.create_observable_gauge(name, [observations], unit=unit, description=description)

    def metrics_text(self) -> bytes:
        """Return all metrics in the Prometheus text format, `text/plain; version=0.0.4`."""
        # the reader hands collected data over through a queue: two scrapes at once would mix theirs
        with self._scrape:
            return generate_latest(self._registry)

    def shutdown(self) -> None:
        """Send what is left, and stop; takes up to the exporter's timeout when the collector is away."""
        self._tracers.shutdown()
        self._meters.shutdown()

    def _start(
        self,
        method: str,
        kind: SpanKind,
        duration: Histogram,
        parent: Context,
        attributes: Attributes | None,
        *,
        known: bool,
    ) -> RpcSpan:
        name = method.removeprefix("/")
        labels = {"rpc.system.name": "grpc", "rpc.method": name if known else OTHER_METHOD}
        if self._spans_received:
            extra = {} if known else {"rpc.method_original": name}
            span = self.tracer.start_span(
                labels["rpc.method"] if known else "grpc",
                context=parent,
                kind=kind,
                attributes={**(attributes or {}), **labels, **extra},
            )
        else:
            span = _ids_only(parent)
        return RpcSpan(span, parent=parent, duration=duration, labels=labels, server=kind is SpanKind.SERVER)


def setup_telemetry(
    service: str,
    otlp_endpoint: str = "",
    *,
    span_processors: Iterable[SpanProcessor] = (),
) -> Telemetry:
    """Return the telemetry of this process; trace ids are made whether or not anything is exported.

    Args:
        service: Name of the service, for example `carbon`.
        otlp_endpoint: Collector to send traces and metrics to, `https://host:port`; plain http only on
            loopback. Empty sends nothing.
        span_processors: More receivers of ended spans.

    Raises:
        ConfigurationError: The endpoint is no https URL.
    """
    resource = Resource.create({SERVICE_NAME: f"aegis-{service}"})
    received = bool(otlp_endpoint)
    # exit hooks off: whoever set this up shuts it down
    tracers = TracerProvider(sampler=ParentBased(ALWAYS_ON), resource=resource, shutdown_on_exit=False)
    registry = CollectorRegistry()
    readers: list[MetricReader] = [PrometheusMetricReader(scope_info_enabled=False, registry=registry)]
    if otlp_endpoint:
        processor, reader = _otlp(otlp_endpoint)
        tracers.add_span_processor(processor)
        readers.append(reader)
    for extra in span_processors:
        tracers.add_span_processor(extra)
        received = True
    meters = MeterProvider(
        metric_readers=readers,
        resource=resource,
        shutdown_on_exit=False,
        # the Prometheus text format has no place for them
        exemplar_filter=TraceBasedExemplarFilter() if otlp_endpoint else AlwaysOffExemplarFilter(),
    )
    return Telemetry(tracers, meters, registry, spans_received=received)


def inject() -> str:
    """Return the `traceparent` of the current span, or an empty string outside of any."""
    return format_traceparent(trace.get_current_span().get_span_context())


_IDS: Final = RandomIdGenerator()


def _ids_only(parent: Context) -> Span:
    """Return a span with the ids and the sampling that a recorded one would have; nobody receives more."""
    above = trace.get_current_span(parent).get_span_context()
    sampled = not above.is_valid or above.trace_flags.sampled
    return NonRecordingSpan(
        SpanContext(
            above.trace_id if above.is_valid else _IDS.generate_trace_id(),
            _IDS.generate_span_id(),
            is_remote=False,
            trace_flags=TraceFlags(TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT),
            trace_state=above.trace_state,
        )
    )


def _otlp(endpoint: str) -> tuple[SpanProcessor, MetricReader]:
    parts = urlsplit(endpoint)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        raise ConfigurationError(
            f"otlp_endpoint {endpoint!r}: write https://host:port; plain http is for loopback only",
            otlp_endpoint=endpoint,
        )
    # importing them takes time and starts nothing; most processes have no collector
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter  # noqa: PLC0415
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter  # noqa: PLC0415

    return (
        BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)),
        PeriodicExportingMetricReader(OTLPMetricExporter(endpoint=endpoint)),
    )


def _duration(meter: Meter, name: str, direction: str) -> Histogram:
    return meter.create_histogram(
        name,
        unit="s",
        description=f"Duration of {direction} calls.",
        explicit_bucket_boundaries_advisory=_DURATION_BUCKETS,
    )


@contextmanager
def _ended(span: RpcSpan) -> Iterator[None]:
    try:
        yield
    except asyncio.CancelledError:
        span.end("CANCELLED")
        raise
    except BaseException as error:
        span.record_exception(error)
        span.end("UNKNOWN")
        raise
    span.end()
