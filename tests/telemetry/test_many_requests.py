"""Ten thousand requests with every observer on: memory is flat, labels bounded, and one that raises breaks nothing."""

import asyncio
import gc
import itertools
import logging
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from prometheus_client import CollectorRegistry, generate_latest

from postresponse import after_response, asgi, wsgi
from postresponse.inspector import Inspector
from postresponse.observing import JobTrace, Observer, Trace
from postresponse.telemetry.logs import LogContext
from postresponse.telemetry.opentelemetry import OpenTelemetryObserver
from postresponse.telemetry.prometheus import PrometheusObserver
from postresponse.telemetry.sentry import SentryScope
from postresponse.telemetry.server_timing import ServerTiming
from postresponse.work import TaskSupervisor
from tests.benchmarks.asgi import Request, new_scope
from tests.benchmarks.wsgi import BASE
from tests.benchmarks.wsgi import Request as WSGIRequest
from tests.fakes import FakeUnit, QuickUnit
from tests.work.waiting import aidle, idle, until

REQUESTS = 5_000
"""Of each protocol."""
WARM, BLOCK = 1_250, 250
BOUND = 20


class Counts(Observer):
    """Counts what it is told."""

    def __init__(self) -> None:
        self.traces = self.jobs = 0

    def ended(self, trace: Trace, begun: object) -> None:
        assert trace.verdict
        self.traces += 1

    def job_ended(self, trace: JobTrace) -> None:
        self.jobs += 1


class Raises(Observer):
    """Raises whenever it is told."""

    def began(self, exchange: Any) -> object:
        raise RuntimeError("began")

    def ended(self, trace: Trace, begun: object) -> None:
        raise RuntimeError("ended")

    def job_around(self, job: Any) -> Any:
        raise RuntimeError("job_around")

    def job_ended(self, trace: JobTrace) -> None:
        raise RuntimeError("job_ended")


class Spans(SpanProcessor):
    """Counts spans, and keeps none."""

    count = 0

    def on_end(self, span: Any) -> None:
        self.count += 1


class Everything:
    """All observers, in one application."""

    unit: type[FakeUnit] = FakeUnit

    def __init__(self) -> None:
        self.supervisor, self.registry, self.reader = TaskSupervisor(), CollectorRegistry(), InMemoryMetricReader()
        self.counts, self.spans = Counts(), Spans()
        self.tracers = TracerProvider(shutdown_on_exit=False)
        self.tracers.add_span_processor(self.spans)
        self.meters = MeterProvider([self.reader], shutdown_on_exit=False)
        self.numbers, self.context = itertools.count(), LogContext()
        self.observers: list[Observer] = [
            OpenTelemetryObserver(tracer_provider=self.tracers, meter_provider=self.meters, max_routes=BOUND),
            PrometheusObserver(registry=self.registry, supervisors=[self.supervisor], max_routes=BOUND, max_jobs=BOUND),
            SentryScope(),
            ServerTiming(),
            self.context,
            Inspector(size=20),
            Raises(),
            self.counts,
        ]

    def view(self, scope: Any) -> None:
        number = next(self.numbers)
        scope["postresponse.route"] = f"/template/{number}" if number % 2 else None
        if number % 5 == 0:
            after_response(self.job, f"job {number}", name=f"job {number}")

    def job(self, name: str) -> None:
        record: Any = logging.LogRecord("shop", logging.INFO, "shop.py", 1, "sent", (), None)
        self.context.filter(record)
        assert record.job == name

    @property
    def options(self) -> dict[str, Any]:
        return {
            "unit_of_work": lambda exchange: self.unit({}),
            "supervisor": self.supervisor,
            "observers": self.observers,
        }


@pytest.fixture
def everything(quiet: None) -> Iterator[Everything]:
    made = Everything()
    yield made
    made.supervisor.close(2)


def serve_wsgi(everything: Everything) -> Callable[[int], None]:
    """Return what serves so many requests."""

    def app(environ: Any, start_response: Any) -> list[bytes]:
        everything.view(environ)
        start_response("200 OK", [("Content-Length", "4")])
        return [b"body"]

    made = wsgi.PostResponseMiddleware(app, **everything.options)
    tracer = everything.tracers.get_tracer("server")

    def serve(count: int) -> None:
        for _ in range(count):
            request = WSGIRequest({**BASE})
            with tracer.start_as_current_span("request"):
                body: Any = made(request.environ, request.start_response)
                request.write(b"".join(body))
                body.close()
            assert request.status == "200 OK"
        idle(everything.supervisor)

    return serve


def serve_asgi(everything: Everything, loop: asyncio.Runner) -> Callable[[int], None]:
    """Likewise."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        everything.view(scope)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"body"})

    everything.unit = QuickUnit
    made = asgi.PostResponseMiddleware(app, **everything.options)
    tracer = everything.tracers.get_tracer("server")

    async def serve(count: int) -> None:
        for _ in range(count):
            request = Request(scope := new_scope())
            with tracer.start_as_current_span("request"):
                await made(scope, request.receive, request.send)
            assert (request.status, request.complete) == (200, True)
        await aidle(everything.supervisor)

    return lambda count: loop.run(serve(count))


@pytest.mark.parametrize("protocol", ["asgi", "wsgi"])
def test_memory_stays_flat_and_labels_bounded_with_every_observer_on(protocol: str, everything: Everything) -> None:
    traced = sys.gettrace() is not None  # by coverage, which keeps what it sees
    requests = WARM + 4 * BLOCK if traced else REQUESTS
    with asyncio.Runner() as loop:
        serve = serve_wsgi(everything) if protocol == "wsgi" else serve_asgi(everything, loop)
        serve(WARM)  # every name that is to be known is known, and every cache full
        garbage = collected(lambda: serve(BLOCK))
        before = sys.getallocatedblocks()
        serve(requests - WARM - 3 * BLOCK)
        gc.collect()
        blocks = sys.getallocatedblocks() - before
        tracemalloc.start()
        try:
            serve(BLOCK)
            gc.collect()
            reached, _ = tracemalloc.get_traced_memory()
            serve(BLOCK)
            gc.collect()
            grown = tracemalloc.get_traced_memory()[0] - reached
        finally:
            tracemalloc.stop()
    assert everything.counts.traces == requests
    until(lambda: everything.counts.jobs == requests // 5)  # the last is told of behind its end
    assert everything.spans.count == requests * 2 + requests // 5  # of the request, its commit, and every job
    assert garbage == 0
    assert traced or blocks < requests // 10  # not one for each job, of which there is a fifth as many
    assert traced or grown < 100 * BLOCK  # an exchange, a trace or a span is several times as large
    shown = generate_latest(everything.registry).decode()
    series = [line for line in shown.splitlines() if "_created" not in line and "_total{" in line]
    assert len(series) == 2 * (BOUND + 2) + (BOUND + 1)  # two counters by route, "other" and "unmatched"; and the jobs
    data: Any = everything.reader.get_metrics_data()
    (responses,) = [
        each for each in data.resource_metrics[0].scope_metrics[0].metrics if each.name == "postresponse.responses"
    ]
    assert len(responses.data.data_points) == BOUND + 2


def collected(call: Callable[[], object]) -> int:
    """How many objects *call* leaves to the collector."""
    gc.collect()
    gc.disable()
    try:
        call()
        return gc.collect()
    finally:
        gc.enable()
