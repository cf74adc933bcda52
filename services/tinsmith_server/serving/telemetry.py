"""Traces, metrics and logs of a process.

Traces are W3C: a call's `traceparent` goes on to the calls that it makes, whether this process exports spans or not.
Spans are exported by OTLP when OTEL_EXPORTER_OTLP_ENDPOINT is set; otherwise they cost nothing but the header.
"""

import json
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.propagate import extract, inject
from prometheus_client import Counter, Gauge, Histogram, start_http_server

TRACE_HEADERS = ("traceparent", "tracestate", "baggage")

_exporting = False
_passed_on: ContextVar[tuple[tuple[str, str], ...]] = ContextVar("trace headers", default=())

CALLS = Counter("tinsmith_calls_total", "calls that have ended", ["method", "code"])
RUNNING = Gauge("tinsmith_calls_running", "calls at work", ["method"])
SECONDS = Histogram("tinsmith_call_seconds", "time of a call", ["method"])


def configure(room: str, *, log_level: str, metrics_port: int) -> None:
    """Sets up logs, and traces and metrics where they are wanted. Once a process."""
    _configure_logs(room, log_level)
    if os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        _configure_traces(room)
    if metrics_port:
        start_http_server(metrics_port)


def _configure_traces(room: str) -> None:
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    global _exporting
    provider = TracerProvider(resource=Resource.create({"service.name": f"tinsmith-{room}"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    _exporting = True


@contextmanager
def server_span(method: str, metadata: Mapping[str, str]) -> Iterator[None]:
    """The span of an incoming call; calls made inside belong to it."""
    if not _exporting:
        headers = tuple((name, metadata[name]) for name in TRACE_HEADERS if name in metadata)
        token = _passed_on.set(headers)
        try:
            yield
        finally:
            with suppress(ValueError):  # a stream whose client has gone is closed in another context than it began in
                _passed_on.reset(token)
        return
    parent = otel_context.attach(extract(metadata))
    try:
        with trace.get_tracer("tinsmith").start_as_current_span(method, kind=trace.SpanKind.SERVER):
            yield
    finally:
        otel_context.detach(parent)


@contextmanager
def span(name: str) -> Iterator[None]:
    """A span of this process's own work, for example a step of a run."""
    if not _exporting:
        yield
        return
    with trace.get_tracer("tinsmith").start_as_current_span(name):
        yield


def trace_headers() -> tuple[tuple[str, str], ...]:
    """What to send with a call so that it belongs to the trace of the present one."""
    if not _exporting:
        return _passed_on.get()
    headers: dict[str, str] = {}
    inject(headers)
    return tuple(headers.items())


def trace_id() -> str:
    """The present trace's id as 32 hexadecimal digits; empty outside of one."""
    headers = dict(trace_headers())
    parts = headers.get("traceparent", "").split("-")
    return parts[1] if len(parts) == 4 else ""


class _JsonLines(logging.Formatter):
    """One JSON object a record, for machines."""

    def __init__(self, room: str) -> None:
        super().__init__()
        self._room = room

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "room": self._room,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line | getattr(record, "fields", {}))


def _configure_logs(room: str, level: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    plain = logging.Formatter(f"%(asctime)s {room} %(levelname)s %(message)s", "%H:%M:%S")
    handler.setFormatter(plain if sys.stderr.isatty() else _JsonLines(room))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for noisy in ("httpx", "httpcore", "urllib3", "uvicorn.error", "asyncio", "filelock"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLevelName(level.upper())))
