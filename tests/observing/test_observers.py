"""Observers are told of exchanges and jobs, under both protocols, and harm nobody."""

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from postresponse import CommitPolicy, after_response, asgi, current_exchange, doom, launch, wsgi
from postresponse.core.driven import DrivenExchange
from postresponse.core.ending import finish
from postresponse.core.lifecycle import State, UnitState
from postresponse.exceptions import ConfigurationError
from postresponse.observing import JobTrace, Observer, Trace
from postresponse.tenancy import asgi as tenancy_asgi
from postresponse.tenancy import wsgi as tenancy_wsgi
from postresponse.work import Bulkhead, TaskSupervisor
from tests.core.exchanges import perform, settings_of
from tests.fakes import FakeUnit, FakeUnits, StrictASGIServer, StrictWSGIServer
from tests.work.waiting import aidle, idle

inside: ContextVar[str] = ContextVar("inside", default="nowhere")


class Notes(Observer):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.traces: list[Trace] = []
        self.jobs: list[JobTrace] = []
        self.begun: list[object] = []
        self.around: list[str] = []

    def began(self, exchange: Any) -> object:
        return f"{exchange.route} {inside.get()}"

    def ended(self, trace: Trace, begun: object) -> None:
        self.traces.append(trace)
        self.begun.append(begun)

    @contextmanager
    def job_around(self, job: Any) -> Iterator[None]:
        token = inside.set(job.name)
        try:
            yield
        except Exception as error:
            self.around.append(f"{job.name} raised {error!r}")
            raise
        finally:
            inside.reset(token)

    def job_ended(self, trace: JobTrace) -> None:
        self.jobs.append(trace)


class Looks(Observer):
    """Looks, when it is told that a job has ended, whether that is among the jobs, and who waits for all to end."""

    def __init__(self) -> None:
        self.supervisor: TaskSupervisor
        self.names: list[str] = []
        self.is_empty = threading.Event()
        self.too_early: list[bool] = []

    def job_ended(self, trace: JobTrace) -> None:
        self.names += [job.name for job in self.supervisor.jobs()]
        assert self.supervisor._tell_when_empty(self.is_empty.set)
        self.too_early.append(self.is_empty.is_set())


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_observers_know_how_a_job_ended_before_it_leaves_the_jobs_and_whoever_waits_for_them(backend: str) -> None:
    looks = Looks()
    looks.supervisor = supervisor = TaskSupervisor(grace=5, observers=[looks])

    async def main() -> None:
        supervisor.launch(anyio.lowlevel.checkpoint, name="async")
        await aidle(supervisor)
        assert looks.is_empty.wait(0)
        looks.is_empty.clear()
        supervisor.launch(len, "", name="sync")
        await aidle(supervisor)

    anyio.run(main, backend=backend)
    assert looks.is_empty.wait(5)
    assert (looks.names, looks.too_early) == (["async", "sync"], [False, False])
    supervisor.close(2)


class Raises(Observer):
    """Raises whenever it is told."""

    def began(self, exchange: Any) -> object:
        raise RuntimeError("began")

    def ended(self, trace: Trace, begun: object) -> None:
        raise RuntimeError("ended")

    def job_around(self, job: Any) -> Any:
        return self

    def __enter__(self) -> None:
        return None

    def __exit__(self, *failure: object) -> None:
        raise RuntimeError("left")

    def job_ended(self, trace: JobTrace) -> None:
        raise RuntimeError("job_ended")


@pytest.fixture
def supervisor() -> Iterator[TaskSupervisor]:
    made = TaskSupervisor(grace=5)
    yield made
    made.close(2)


@pytest.fixture(params=["asyncio", "trio", "wsgi"])
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def serve(protocol: str, view: Callable[[], int], **options: Any) -> None:
    """Let a server handle one `GET /orders`, whose view returns the status, and wait for the work that it starts."""
    supervisor: TaskSupervisor = options["supervisor"]
    if protocol == "wsgi":

        def wsgi_app(environ: Any, start_response: Any) -> list[bytes]:
            start_response(f"{view()} Said", [("Content-Length", "4")])
            return [b"body"]

        StrictWSGIServer().run(wsgi.PostResponseMiddleware(wsgi_app, **options))
        idle(supervisor)
        return

    async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
        status = view()
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"4")]})
        await send({"type": "http.response.body", "body": b"body"})

    async def main() -> None:
        await StrictASGIServer().run(asgi.PostResponseMiddleware(asgi_app, **options))
        await aidle(supervisor)

    anyio.run(main, backend=protocol)


def test_a_trace_says_when_its_request_came_however_long_hooks_take() -> None:
    notes, passed = Notes(), [0.0]

    def wait(outcome: object) -> None:
        passed[0] += 30

    clock, wall_clock = lambda: int(passed[0] * 1e9), lambda: 1000 + passed[0]
    settings = settings_of(observers=[notes], on_finished=wait, clock=clock, wall_clock=wall_clock)
    exchange = DrivenExchange(settings, {"type": "http", "method": "GET", "path": "/"}, 0)
    exchange._begin_observed(settings.observers)
    passed[0] += 5
    exchange._state = State.OVER
    perform(finish(exchange))
    assert [trace.time for trace in notes.traces] == [1000.0]


def test_an_observer_is_told_the_path_as_its_client_wrote_it() -> None:
    notes = Notes()

    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return []

    environ = StrictWSGIServer().environ | {"PATH_INFO": "/caf\xc3\xa9"}
    body: Any = wsgi.PostResponseMiddleware(app, observers=[notes])(environ, StrictWSGIServer().start_response)
    body.close()
    assert [trace.path for trace in notes.traces] == ["/café"]


def test_an_observer_is_told_how_an_exchange_went(protocol: str, supervisor: TaskSupervisor) -> None:
    notes = Notes()
    token = inside.set("the request")
    try:
        serve(protocol, lambda: 201, unit_of_work=FakeUnits(), supervisor=supervisor, observers=[notes])
    finally:
        inside.reset(token)
    (trace,) = notes.traces
    assert (trace.method, trace.path, trace.route, trace.template, trace.mode) == (
        "GET",
        "/orders",
        "/orders",
        None,
        "head",
    )
    assert (trace.outcome.status, trace.outcome.unit_of_work) == (201, UnitState.COMMITTED)
    assert notes.begun == ["GET /orders the request"]
    assert re.fullmatch(r"committed \d+\.\d ms before the first byte", trace.verdict)
    assert not trace.is_problem
    names = [event.name for event in trace.events]
    assert names == [
        "request.start", "handler.head", "commit.start", "commit.done", "head.sent", "body.last", "request.end",
    ]  # fmt: skip
    assert str(trace).splitlines()[0] == f"GET /orders 201 (head): {trace.verdict}"


def test_without_a_unit_of_work_it_only_observes(protocol: str, supervisor: TaskSupervisor) -> None:
    notes = Notes()
    serve(protocol, lambda: 200, supervisor=supervisor, observers=[notes])
    (trace,) = notes.traces
    assert (trace.mode, trace.verdict) == ("observe", "nothing was committed")


def test_a_rollback_says_why(protocol: str, supervisor: TaskSupervisor) -> None:
    notes = Notes()

    def doomed() -> int:
        doom("it is a dry run")
        return 200

    for view in (lambda: 409, doomed):
        serve(protocol, view, unit_of_work=FakeUnits(), supervisor=supervisor, observers=[notes])
    assert [trace.verdict for trace in notes.traces] == ["rolled back (409)", "rolled back (doomed)"]
    assert [trace.doomed for trace in notes.traces] == [None, "it is a dry run"]
    assert "rollback.done" in [event.name for event in notes.traces[0].events]


def test_a_failed_commit_is_a_problem(protocol: str, supervisor: TaskSupervisor, quiet: None) -> None:
    notes = Notes()
    for mode, told in (("head", "and the client was told so"), ("after_send", "behind the client's back")):
        units = FakeUnits({"commit": OSError("no answer")})
        serve(protocol, lambda: 201, unit_of_work=units, commit=mode, supervisor=supervisor, observers=[notes])
        trace = notes.traces[-1]
        assert (trace.mode, trace.verdict, trace.is_problem) == (mode, f"the commit failed, {told}", True)


def test_an_observer_is_told_of_the_jobs_of_a_request(protocol: str, supervisor: TaskSupervisor, quiet: None) -> None:
    notes, ran = Notes(), []

    async def afterwards() -> None:
        ran.append(inside.get())

    def failing() -> None:
        raise ValueError("no")

    def view() -> int:
        after_response(lambda: ran.append(inside.get()), name="sync")
        after_response(afterwards, name="async")
        launch(failing, name="failing")
        return 200

    serve(protocol, view, supervisor=supervisor, observers=[notes])
    assert sorted(ran) == ["async", "sync"]
    told = {job.name: job for job in notes.jobs}
    assert {name: job.state for name, job in told.items()} == {"sync": "done", "async": "done", "failing": "failed"}
    assert {job.exchange for job in notes.jobs} == {notes.traces[0].number}
    assert notes.around == ["failing raised ValueError('no')"]
    for job in notes.jobs:
        assert job.started is not None
        assert job.submitted <= job.started <= job.ended
        assert job.is_problem is (job.name == "failing")


def test_a_job_that_a_full_bulkhead_refuses_is_told_of_as_dropped(supervisor: TaskSupervisor, quiet: None) -> None:
    notes = Notes()
    bulkhead = Bulkhead("mails", max_concurrency=1, max_queue=0, supervisor=supervisor)

    def view() -> int:
        for _ in range(2):
            after_response(anyio.sleep, 0.01, bulkhead=bulkhead)
        return 200

    serve("asyncio", view, supervisor=supervisor, observers=[notes])
    assert sorted(job.state for job in notes.jobs) == ["done", "dropped"]


def test_a_supervisor_has_observers_of_its_own() -> None:
    notes = Notes()
    supervisor = TaskSupervisor(observers=[notes])
    assert supervisor.launch(inside.get, name="job").result(5) == "job"
    supervisor.close(2)
    assert [(job.state, job.exchange, job.route) for job in notes.jobs] == [("done", None, "")]


def test_an_observer_that_raises_harms_nobody_and_is_logged_once(
    protocol: str, supervisor: TaskSupervisor, caplog: pytest.LogCaptureFixture
) -> None:
    kind = type("RaisesAnew", (Raises,), {})  # what was logged of a class is not logged again
    notes, ran = Notes(), list[int]()

    def view() -> int:
        after_response(ran.append, 1)
        return 200

    for _ in range(2):
        serve(protocol, view, supervisor=supervisor, observers=[kind(), notes])
    assert ran == [1, 1]
    assert [trace.outcome.status for trace in notes.traces] == [200, 200]
    assert [job.state for job in notes.jobs] == ["done", "done"]
    failed = sorted(re.findall(r"failed in (\w+)\(\)", caplog.text))
    assert failed == ["began", "ended", "job_around", "job_ended"]


def test_an_inner_middleware_with_a_unit_of_work_brings_its_observers(
    protocol: str, supervisor: TaskSupervisor
) -> None:
    outer, inner = Notes(), Notes()
    kinds: Any = wsgi.PostResponseMiddleware if protocol == "wsgi" else asgi.PostResponseMiddleware

    def around(app: Any) -> Any:
        return kinds(kinds(app, unit_of_work=FakeUnits(), observers=[inner]), observers=[outer], supervisor=supervisor)

    if protocol == "wsgi":

        def wsgi_app(environ: Any, start_response: Any) -> list[bytes]:
            start_response("200 OK", [])
            return [b"body"]

        StrictWSGIServer().run(around(wsgi_app))
    else:

        async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"body"})

        anyio.run(StrictASGIServer().run, around(asgi_app), backend=protocol)
    assert [trace.outcome.unit_of_work for trace in outer.traces + inner.traces] == [UnitState.COMMITTED] * 2


def test_the_number_of_an_exchange_stays(supervisor: TaskSupervisor) -> None:
    notes, numbers = Notes(), list[int]()

    def view() -> int:
        numbers.extend((current_exchange().number, current_exchange().number))
        return 200

    serve("wsgi", view, supervisor=supervisor, observers=[notes])
    assert numbers == [notes.traces[0].number] * 2


@pytest.mark.parametrize("given", [Notes(), 3, [Notes], [object()]])
@pytest.mark.parametrize("kind", [asgi.PostResponseMiddleware, wsgi.PostResponseMiddleware])
def test_what_is_no_list_of_observers_is_refused(kind: Any, given: Any) -> None:
    app = (lambda scope, receive, send: None) if kind is asgi.PostResponseMiddleware else (lambda environ, start: None)
    with pytest.raises(ConfigurationError, match="observers: expected"):
        kind(app, observers=given)


def test_whose_request_it_was_is_told_where_tenants_have_limits(protocol: str, supervisor: TaskSupervisor) -> None:
    notes = Notes()
    if protocol == "wsgi":

        def wsgi_app(environ: Any, start_response: Any) -> list[bytes]:
            start_response("200 OK", [])
            return [b"body"]

        inner = wsgi.PostResponseMiddleware(wsgi_app, observers=[notes])
        StrictWSGIServer().run(tenancy_wsgi.TenantLimitMiddleware(inner, key=lambda environ: 7))
    else:

        async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"body"})

        given = asgi.PostResponseMiddleware(asgi_app, observers=[notes])
        limited = tenancy_asgi.TenantLimitMiddleware(given, key=lambda scope: 7)
        anyio.run(StrictASGIServer().run, limited, backend=protocol)
    assert [trace.tenant for trace in notes.traces] == ["7"]


class Lazy(FakeUnit):
    """One that nobody touched."""

    touched = changed = False


def test_a_unit_of_work_that_nobody_touched_has_committed_nothing(protocol: str, supervisor: TaskSupervisor) -> None:
    notes = Notes()
    for options in ({}, {"commit": CommitPolicy(commit_if=lambda head: True)}):
        serve(
            protocol, lambda: 200, unit_of_work=lambda _: Lazy({}), supervisor=supervisor, observers=[notes], **options
        )
    assert [(trace.idle, trace.verdict) for trace in notes.traces] == [(True, "nothing was committed")] * 2
