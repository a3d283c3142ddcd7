"""Spans of commits and jobs, on real servers, with the real instrumentation around the middleware and inside of it."""

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import anyio
import pytest
from opentelemetry import baggage, context
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware as AroundASGI
from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware as AroundWSGI
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode

from postresponse import CommitPolicy, Retry, after_response, asgi, current_exchange, wsgi
from postresponse.exceptions import ConfigurationError
from postresponse.observing import ObservedCommit
from postresponse.telemetry.opentelemetry import OpenTelemetryObserver
from postresponse.work import TaskSupervisor
from tests.fakes import Conflict, FakeUnits, run_asgi, run_wsgi
from tests.integrations.shop import REFUSED, Order, Shop
from tests.servers.client import Connection
from tests.telemetry.serving import serving_asgi, serving_wsgi
from tests.work.waiting import idle, until

SLOW = 0.3
"""Seconds that a job takes which must not lengthen its request."""


class Telemetry:
    """A provider of each kind, in memory."""

    def __init__(self) -> None:
        self.exporter, self.reader = InMemorySpanExporter(), InMemoryMetricReader()
        self.tracers = TracerProvider(shutdown_on_exit=False)
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.meters = MeterProvider([self.reader], shutdown_on_exit=False)
        self.supervisor = TaskSupervisor()

    def observer(self, **options: Any) -> OpenTelemetryObserver:
        return OpenTelemetryObserver(tracer_provider=self.tracers, meter_provider=self.meters, **options)

    def request(self, trace_id: int) -> ReadableSpan:
        """The span of the request of one trace; it is waited for."""
        return self.one(lambda span: span.kind is SpanKind.SERVER, trace_id)

    def one(self, holds: Callable[[ReadableSpan], bool], trace_id: int) -> ReadableSpan:
        """The one span of a trace, or linked to it, that is waited for."""

        def found() -> list[ReadableSpan]:
            spans = self.exporter.get_finished_spans()
            return [span for span in spans if holds(span) and trace_id in _traces(span)]

        until(found)
        (span,) = found()
        return span

    def counts(self, name: str) -> dict[tuple[tuple[str, Any], ...], Any]:
        """What an instrument has counted, by its attributes."""
        data: Any = self.reader.get_metrics_data()
        metrics = data.resource_metrics[0].scope_metrics[0].metrics
        (metric,) = [each for each in metrics if each.name == name]
        return {
            tuple(sorted(point.attributes.items())): getattr(point, "value", None) or getattr(point, "count", None)
            for point in metric.data.data_points
        }


def _traces(span: ReadableSpan) -> list[int]:
    return [_context(span).trace_id, *(link.context.trace_id for link in span.links)]


def _times(span: ReadableSpan) -> tuple[int, int]:
    assert span.start_time is not None
    assert span.end_time is not None
    return span.start_time, span.end_time


def _lasted(span: ReadableSpan) -> int:
    began, ended = _times(span)
    return ended - began


def _context(span: ReadableSpan) -> Any:
    assert span.context is not None
    return span.context


@dataclass
class Site:
    """One stack, served."""

    protocol: str
    placed: str
    port: int
    telemetry: Telemetry

    def get(self, path: str) -> tuple[int, int]:
        """Ask, as a traced client does; return the status and the id of the trace."""
        trace_id = secrets.randbits(128)
        header = f"00-{trace_id:032x}-{secrets.randbits(64):016x}-01"
        with Connection(self.port) as connection:
            status = connection.request("GET", path, (("traceparent", header),)).status
        return status, trace_id


def slow_job(tracer: Any) -> None:
    with tracer.start_as_current_span("inner"):
        time.sleep(SLOW)


def failing_job() -> None:
    raise ValueError("no paper left")


def view(path: str, session: Any, tracer: Any) -> int:
    """What the application does, under either protocol."""
    if path == "/refused":
        session.add_all(REFUSED["at the commit"]())
        return 201
    if path == "/conflict":
        return 409
    session.add(Order(item=secrets.token_hex(8)))
    if path == "/slow":
        after_response(slow_job, tracer, name="slow")
    if path == "/failing":
        after_response(failing_job, name="failing")
    return 201


STACKS = [(protocol, placed) for protocol in ("asgi", "wsgi") for placed in ("around", "inside")]


def stack(protocol: str, placed: str, shop: Shop, telemetry: Telemetry) -> Any:
    """The application, the middleware, and the instrumentation in one of its two places."""
    tracer = telemetry.tracers.get_tracer("application")

    def wsgi_app(environ: Any, start_response: Any) -> list[bytes]:
        status = view(environ["PATH_INFO"], shop.db.session, tracer)
        start_response(f"{status} Said", [("Content-Length", "4")])
        return [b"body"]

    async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
        status = view(scope["path"], shop.adb.session, tracer)
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"4")]})
        await send({"type": "http.response.body", "body": b"body"})

    def instrumented(app: Any) -> Any:
        around: Any = AroundASGI if protocol == "asgi" else AroundWSGI
        return around(app, tracer_provider=telemetry.tracers, meter_provider=MeterProvider(shutdown_on_exit=False))

    def wrapped(app: Any) -> Any:
        options: Any = {"observers": [telemetry.observer()], "supervisor": telemetry.supervisor}
        if protocol == "asgi":
            return asgi.PostResponseMiddleware(app, unit_of_work=shop.adb, **options)
        return wsgi.PostResponseMiddleware(app, unit_of_work=shop.db, **options)

    app: Any = asgi_app if protocol == "asgi" else wsgi_app
    return instrumented(wrapped(app)) if placed == "around" else wrapped(instrumented(app))


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[tuple[str, str], Site]]:
    """Every stack, on a server."""
    with ExitStack() as stack_of:
        made = {}
        for protocol, placed in STACKS:
            telemetry, shop = Telemetry(), Shop(tmp_path_factory.mktemp("shop") / "shop.sqlite3")
            serving = serving_asgi if protocol == "asgi" else serving_wsgi
            port = stack_of.enter_context(serving(stack(protocol, placed, shop, telemetry)))
            made[protocol, placed] = Site(protocol, placed, port, telemetry)
            stack_of.callback(shop.engine.dispose)
            stack_of.callback(telemetry.supervisor.close, 2)
        yield made


@pytest.fixture(params=STACKS, ids="-".join)
def site(request: pytest.FixtureRequest, sites: dict[tuple[str, str], Site]) -> Site:
    return sites[request.param]


def test_the_commit_lies_inside_of_its_request_with_its_true_times(site: Site) -> None:
    status, trace_id = site.get("/orders")
    assert status == 201
    request = site.telemetry.request(trace_id)
    commit = site.telemetry.one(lambda span: span.name == "commit", trace_id)
    assert commit.parent is not None
    assert commit.parent.span_id == _context(request).span_id
    (came, left), (began, ended) = _times(request), _times(commit)
    assert came < began < ended < left
    said = dict(commit.attributes or {})
    assert said["postresponse.commit.position"] == "before_head"
    assert (said["postresponse.ending"], said["postresponse.unit_of_work"]) == ("handed_over", "committed")
    assert isinstance(said["postresponse.commit_to_head_ms"], float)
    assert said["postresponse.commit_to_head_ms"] >= 0
    of_request = dict(request.attributes or {})
    assert (of_request["postresponse.commit_point"], of_request["postresponse.unit_of_work"]) == ("head", "committed")
    # The others end the span of a request before its ending is known.
    ends_later = (site.protocol, site.placed) == ("wsgi", "around")
    assert of_request.get("postresponse.ending") == ("handed_over" if ends_later else None)


def test_a_slow_job_leaves_its_request_at_its_real_length_and_is_linked_to_it(site: Site) -> None:
    _, trace_id = site.get("/slow")
    request = site.telemetry.request(trace_id)
    job = site.telemetry.one(lambda span: span.name == "job slow", trace_id)
    assert _lasted(request) < SLOW * 1e9 <= _lasted(job)
    assert job.parent is None
    assert _context(job).trace_id != trace_id
    assert [link.context.span_id for link in job.links] == [_context(request).span_id]
    inner = site.telemetry.one(lambda span: span.name == "inner", _context(job).trace_id)
    assert inner.parent is not None
    assert inner.parent.span_id == _context(job).span_id
    assert job.status.status_code is StatusCode.UNSET
    assert dict(job.attributes or {})["postresponse.job.route"] == "GET /slow"


def test_a_job_that_raises_has_the_status_of_an_error(site: Site, quiet: None) -> None:
    _, trace_id = site.get("/failing")
    job = site.telemetry.one(lambda span: span.name == "job failing", trace_id)
    assert (job.status.status_code, job.status.description) == (StatusCode.ERROR, "ValueError: no paper left")
    (event,) = job.events
    assert dict(event.attributes or {})["exception.message"] == "no paper left"
    assert dict(job.attributes or {})["error.type"] == "ValueError"
    assert site.telemetry.request(trace_id).status.status_code is StatusCode.UNSET


def test_a_commit_that_fails_has_the_status_of_an_error(site: Site, quiet: None) -> None:
    status, trace_id = site.get("/refused")
    assert status == 500
    commit = site.telemetry.one(lambda span: span.name == "commit", trace_id)
    assert commit.status.status_code is StatusCode.ERROR
    assert commit.status.description
    assert commit.status.description.startswith("IntegrityError: ")
    (event,) = commit.events
    assert event.name == "exception"
    assert dict(site.telemetry.request(trace_id).attributes or {})["postresponse.unit_of_work"] == "failed"


def test_a_rollback_is_called_so(site: Site) -> None:
    status, trace_id = site.get("/conflict")
    assert status == 409
    rollback = site.telemetry.one(lambda span: span.name == "rollback", trace_id)
    assert rollback.status.status_code is StatusCode.UNSET
    assert dict(site.telemetry.request(trace_id).attributes or {})["postresponse.unit_of_work"] == "rolled_back"


# -- in process ------------------------------------------------------------------------------------------------------


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    made = Telemetry()
    yield made
    made.supervisor.close(2)


def serve(app: Any, telemetry: Telemetry, **options: Any) -> None:
    """Let a WSGI server handle one request, in a span of its own."""
    observers = [*options.pop("observers", ()), options.pop("observer", None) or telemetry.observer()]
    made = wsgi.PostResponseMiddleware(app, supervisor=telemetry.supervisor, observers=observers, **options)
    with telemetry.tracers.get_tracer("server").start_as_current_span("request", kind=SpanKind.SERVER):
        run_wsgi(made)
    idle(telemetry.supervisor)


def ok(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Length", "4")])
    return [b"body"]


def finished(telemetry: Telemetry) -> dict[str, ReadableSpan]:
    return {span.name: span for span in telemetry.exporter.get_finished_spans()}


def test_a_job_may_be_a_child_of_its_request(telemetry: Telemetry) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        after_response(time.monotonic, name="quick")
        return ok(environ, start_response)

    serve(app, telemetry, observer=telemetry.observer(jobs="child"))
    spans = finished(telemetry)
    assert spans["job quick"].parent == spans["request"].context
    assert spans["job quick"].links == ()


def test_a_request_without_a_span_has_none_here_and_its_jobs_have(telemetry: Telemetry) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        after_response(time.monotonic, name="quick")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"body"})

    options: Any = {"supervisor": telemetry.supervisor, "observers": [telemetry.observer()]}
    run_asgi(asgi.PostResponseMiddleware(app, unit_of_work=FakeUnits(is_async=True), **options))
    idle(telemetry.supervisor)
    assert list(finished(telemetry)) == ["job quick"]
    assert finished(telemetry)["job quick"].links == ()


def test_a_job_keeps_the_baggage_of_its_request(telemetry: Telemetry) -> None:
    seen = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        token = context.attach(baggage.set_baggage("customer", "7"))
        try:
            after_response(lambda: seen.append(baggage.get_baggage("customer")))
        finally:
            context.detach(token)
        return ok(environ, start_response)

    serve(app, telemetry)
    assert seen == ["7"]


def test_what_is_not_sampled_records_nothing() -> None:
    telemetry = Telemetry()
    telemetry.tracers.sampler = ALWAYS_OFF
    serve(ok, telemetry, unit_of_work=FakeUnits())
    assert finished(telemetry) == {}


def test_the_commit_of_a_request_that_is_run_again_is_told_once(telemetry: Telemetry, quiet: None) -> None:
    units = FakeUnits({"commit": Conflict()}, times=1)
    policy = CommitPolicy(retry=Retry(attempts=2, backoff=0.0))
    serve(ok, telemetry, unit_of_work=units, commit=policy)
    spans = telemetry.exporter.get_finished_spans()
    assert [span.name for span in spans] == ["commit", "request"]
    assert dict(spans[0].attributes or {})["postresponse.attempt"] == 2
    assert dict(spans[1].attributes or {})["postresponse.unit_of_work"] == "committed"


def test_a_commit_that_was_seen_late_is_a_span_and_counted_on_its_request(telemetry: Telemetry) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Length", "4")])
        now = time.monotonic_ns()
        seen = [
            ObservedCommit(now, now + 5_000_000, True, True, None, "sqlalchemy", "save (shop.py:7)"),
            ObservedCommit(now, now, True, False, None, "sqlalchemy", ""),  # it only read
        ]
        current_exchange()._commits = seen
        return [b"body"]

    serve(app, telemetry)
    spans = finished(telemetry)
    commit = spans["commit"]
    assert _lasted(commit) == 5_000_000
    said = dict(commit.attributes or {})
    assert (said["postresponse.commit.managed"], said["postresponse.commit.position"]) == (False, "after_head")
    assert said["postresponse.where"] == "save (shop.py:7)"
    assert dict(spans["request"].attributes or {})["postresponse.late_commits"] == 1
    assert dict(spans["request"].attributes or {})["postresponse.commit_point"] == "observe"


def test_a_job_that_is_late_has_the_status_of_an_error(telemetry: Telemetry, quiet: None) -> None:
    supervisor = TaskSupervisor(observers=[telemetry.observer()])
    goes_on = threading.Event()
    sync, late = supervisor.launch(goes_on.wait, 10, timeout=0.01), supervisor.launch(anyio.sleep, 10, timeout=0.01)
    for job in (sync, late):
        with pytest.raises(TimeoutError):
            job.result(5)
    goes_on.set()
    cancelled = supervisor.launch(anyio.sleep, 10, name="cancelled")
    until(lambda: cancelled.state == "running")
    cancelled.cancel()
    with pytest.raises(CancelledError):
        cancelled.result(5)
    lost = supervisor.launch(anyio.sleep, 10, name="lost")
    until(lambda: lost.state == "running")
    supervisor.close(0)
    until(lambda: "job lost" in finished(telemetry))
    spans = finished(telemetry)
    assert (spans["job lost"].status.status_code, spans["job lost"].status.description) == (StatusCode.ERROR, "dropped")
    for name in (sync.name, late.name):
        status = spans[f"job {name}"].status
        assert (status.status_code, status.description) == (
            StatusCode.ERROR,
            f"TimeoutError: {name} was not done in 0.01 s",
        )
    assert spans["job cancelled"].status.status_code is StatusCode.UNSET
    assert dict(spans["job cancelled"].attributes or {})["postresponse.job.state"] == "cancelled"
    until(lambda: sum(telemetry.counts("postresponse.jobs").values()) == 4)
    states = {dict(labels)["postresponse.job.state"]: n for labels, n in telemetry.counts("postresponse.jobs").items()}
    assert states == {"timed_out": 2, "cancelled": 1, "dropped": 1}


def test_the_metrics_tell_positions_and_endings_by_bounded_routes(telemetry: Telemetry) -> None:
    observer = telemetry.observer(max_routes=2)
    for number in range(4):

        def app(environ: Any, start_response: Any, number: int = number) -> list[bytes]:
            environ["postresponse.route"] = f"/template/{number}"
            return ok(environ, start_response)

        serve(app, telemetry, observer=observer, unit_of_work=FakeUnits(), commit="after_send")
    routes = {dict(labels)["http.route"]: count for labels, count in telemetry.counts("postresponse.responses").items()}
    assert routes == {"/template/0": 1, "/template/1": 1, "other": 2}
    commits = telemetry.counts("postresponse.commit.duration")
    assert {dict(labels)["postresponse.commit.position"] for labels in commits} == {"after_send"}
    assert sum(commits.values()) == 4


def test_a_commit_behind_the_last_part_comes_after_the_end_of_its_request(telemetry: Telemetry) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"body"})

    units = FakeUnits(is_async=True)
    options: Any = {"unit_of_work": units, "commit": "after_send", "observers": [telemetry.observer()]}
    run_asgi(AroundASGI(asgi.PostResponseMiddleware(app, **options), tracer_provider=telemetry.tracers))
    (request,) = [span for span in telemetry.exporter.get_finished_spans() if span.kind is SpanKind.SERVER]
    commit = finished(telemetry)["commit"]
    assert commit.parent == request.context
    assert _times(request)[1] < _times(commit)[0]
    said: Any = dict(commit.attributes or {})
    assert said["postresponse.commit.position"] == "after_send"
    assert said["postresponse.commit_to_head_ms"] < 0
    assert "postresponse.unit_of_work" not in dict(request.attributes or {})  # nobody knew


def test_a_commit_ahead_of_the_answer_is_told_as_any_other(telemetry: Telemetry) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        exchange: Any = current_exchange()
        await exchange._commit_early()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"body"})

    options: Any = {"unit_of_work": FakeUnits(is_async=True), "observers": [telemetry.observer()]}
    around = AroundASGI(asgi.PostResponseMiddleware(app, **options), tracer_provider=telemetry.tracers)
    run_asgi(around)
    (request,) = [span for span in telemetry.exporter.get_finished_spans() if span.kind is SpanKind.SERVER]
    assert finished(telemetry)["commit"].parent == request.context
    assert dict(request.attributes or {})["postresponse.unit_of_work"] == "committed"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"jobs": "childs"}, "jobs: expected 'linked' or 'child', found 'childs'; did you mean 'child'"),
        ({"tracer_provider": object()}, "tracer_provider: expected a TracerProvider of OpenTelemetry's, found <object"),
        ({"meter_provider": 3}, "meter_provider: expected a MeterProvider of OpenTelemetry's, found 3"),
        ({"max_routes": 0}, "max_routes: expected a whole number from 1 on, found 0"),
    ],
)
def test_a_value_that_an_option_cannot_have_is_refused(options: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        OpenTelemetryObserver(**options)
