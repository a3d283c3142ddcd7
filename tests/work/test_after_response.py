import re
import threading
import time
from collections.abc import Callable
from contextvars import Context, ContextVar, copy_context
from typing import Any

import anyio
import pytest
import sniffio

from postresponse import CommitPolicy, Outcome, Retry, asgi, current_exchange, wsgi
from postresponse.exceptions import ConfigurationError, NoExchange, NotAFunction, ResponseStarted
from postresponse.work import Bulkhead, TaskSupervisor, after_response, default_supervisor, launch
from tests.fakes import Conflict, ConnectionLost, FakeUnits, StrictASGIServer, StrictWSGIServer
from tests.work.conftest import Told
from tests.work.waiting import aidle, idle

value: ContextVar[str] = ContextVar("value", default="none")


def handle(
    protocol: str, supervisor: TaskSupervisor, view: Callable[[], int], leaves_at: int | None = None, **options: Any
) -> int | None:
    """Let a server handle one request, whose view returns its status; wait for the work, and return the status."""
    if protocol == "wsgi":

        def wsgi_app(environ: Any, start_response: Any) -> list[bytes]:
            status = view()
            start_response(f"{status} Said", [("Content-Length", "4")])
            return [b"body"]

        wsgi_server = StrictWSGIServer().run(wsgi.PostResponseMiddleware(wsgi_app, supervisor=supervisor, **options))
        idle(supervisor)
        if wsgi_server.raised is not None:
            raise wsgi_server.raised
        return wsgi_server.code

    async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
        status = view()
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"4")]})
        await send({"type": "http.response.body", "body": b"body"})

    async def main() -> int | None:
        server = StrictASGIServer(leaves_at=leaves_at, tells=leaves_at is not None)
        await server.run(asgi.PostResponseMiddleware(asgi_app, supervisor=supervisor, **options))
        await aidle(supervisor)
        return server.status

    return anyio.run(main, backend=protocol)


@pytest.fixture(params=["asyncio", "trio", "wsgi"])
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_work_starts_in_order_once_the_response_is_over(protocol: str, supervisor: TaskSupervisor) -> None:
    ran: list[str] = []

    async def awaited(name: str) -> None:
        ran.append(f"async {name} {value.get()}")

    def view() -> int:
        value.set("of the request")
        after_response(lambda: ran.append(f"1 {value.get()}"))
        after_response(awaited, "1")
        after_response(lambda: ran.append("2"))
        after_response(awaited, "2")
        current_exchange().on_finished(lambda outcome: ran.append("finished"))
        value.set("later")
        return 200

    assert handle(protocol, supervisor, view) == 200
    assert ran[0] == "finished"
    assert [name for name in ran if name.startswith("async")] == ["async 1 of the request", "async 2 of the request"]
    assert [name for name in ran if name[0] in "12"] == ["1 of the request", "2"]


@pytest.mark.parametrize("again", [False, True], ids=["", "in a second attempt"])
def test_async_work_runs_where_the_application_does_and_under_wsgi_on_one_loop(
    protocol: str, supervisor: TaskSupervisor, again: bool
) -> None:
    threads: list[tuple[int, str]] = []

    async def where() -> None:
        threads.append((threading.get_ident(), sniffio.current_async_library()))

    def view() -> int:
        after_response(where)
        launch(where)
        after_response(after_response, where)  # from a thread
        return 200

    units = FakeUnits({"commit": Conflict()} if again else {}, times=1, is_async=protocol != "wsgi")
    policy = CommitPolicy(retry=Retry(attempts=2, backoff=0))
    handle(protocol, supervisor, view, unit_of_work=units, commit=policy)
    assert len(threads) == (4 if again else 3)  # what the first attempt launched runs, too
    assert len(set(threads)) == 1
    here = (threading.get_ident(), protocol)
    assert (threads[0] == here) is (protocol != "wsgi")


@pytest.mark.parametrize(
    ("status", "units", "due"),
    [
        (200, None, {"committed", "sent"}),
        (303, None, {"committed", "sent"}),
        (399, None, {"committed", "sent"}),
        (400, None, {"sent"}),
        (404, None, {"sent"}),
        (200, FakeUnits(), {"committed", "sent"}),
        (404, FakeUnits(), {"sent", "rolled_back"}),
        (200, FakeUnits({"commit": LookupError("refused")}), {"sent", "rolled_back"}),
    ],
)
def test_work_starts_if_its_condition_holds(
    protocol: str, supervisor: TaskSupervisor, quiet: None, status: int, units: FakeUnits | None, due: set[str]
) -> None:
    ran: set[str] = set()

    def view() -> int:
        for when in ("committed", "sent", "rolled_back", "aborted", "always"):
            after_response(ran.add, when, when=when)
        after_response(ran.add, "predicate", when=lambda outcome: outcome.status == 404)
        return status

    if units is not None:
        units = FakeUnits(units.fails, is_async=protocol != "wsgi")
    options: dict[str, Any] = {} if units is None else {"unit_of_work": units}
    handle(protocol, supervisor, view, **options)
    assert ran == due | {"always"} | ({"predicate"} if status == 404 else set())


def test_a_condition_that_raises_is_logged_and_the_rest_starts(
    protocol: str, supervisor: TaskSupervisor, caplog: pytest.LogCaptureFixture
) -> None:
    ran: list[int] = []

    def view() -> int:
        after_response(ran.append, 1, when=lambda outcome: 1 // 0 > 0)
        after_response(ran.append, 2)
        return 200

    handle(protocol, supervisor, view)
    assert ran == [2]
    (line,) = caplog.records
    assert line.getMessage() == "GET /orders: work after the response could not start"
    assert line.exc_info is not None
    assert line.exc_info[0] is ZeroDivisionError


def test_work_of_a_request_that_raised_does_not_start_by_itself(protocol: str, supervisor: TaskSupervisor) -> None:
    ran: list[str] = []

    def view() -> int:
        after_response(ran.append, "committed")
        after_response(ran.append, "always", when="always")
        raise LookupError("the view")

    with pytest.raises(LookupError, match="the view"):
        handle(protocol, supervisor, view)
    idle(supervisor)
    assert ran == ["always"]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_work_of_a_response_whose_client_left(backend: str, supervisor: TaskSupervisor) -> None:
    ran: list[str] = []

    def view() -> int:
        for when in ("sent", "aborted"):
            after_response(ran.append, when, when=when)
        return 200

    with pytest.raises(ConnectionLost):
        handle(backend, supervisor, view, leaves_at=0)
    idle(supervisor)
    assert ran == ["aborted"]


def test_only_the_work_of_the_attempt_that_counts_starts(protocol: str, supervisor: TaskSupervisor) -> None:
    ran: list[int] = []

    def view() -> int:
        after_response(ran.append, current_exchange().attempt, when="always")
        return 200

    units = FakeUnits({"commit": Conflict()}, times=2, is_async=protocol != "wsgi")
    policy = CommitPolicy(retry=Retry(attempts=3, backoff=0))
    assert handle(protocol, supervisor, view, unit_of_work=units, commit=policy) == 200
    assert ran == [3]


def test_work_starts_further_work(protocol: str, supervisor: TaskSupervisor) -> None:
    ran: list[str] = []

    def nested() -> None:
        ran.append("first")
        after_response(ran.append, "second")
        after_response(ran.append, "never", when="rolled_back")

    def view() -> int:
        after_response(nested)
        return 200

    handle(protocol, supervisor, view)
    assert ran == ["first", "second"]


def test_launched_work_may_register_after_the_response_is_over(protocol: str, supervisor: TaskSupervisor) -> None:
    ran: list[str] = []
    outcomes: list[Outcome] = []

    def late() -> None:
        time.sleep(0.03)
        after_response(ran.append, "sent", when="sent")
        after_response(ran.append, "aborted", when="aborted")

    def view() -> int:
        launch(late)
        return 200

    handle(protocol, supervisor, view)
    assert (ran, outcomes) == (["sent"], [])


def test_who_comes_after_the_end_from_elsewhere_is_told_what_to_do_instead(
    protocol: str, supervisor: TaskSupervisor
) -> None:
    contexts: list[Context] = []

    def view() -> int:
        contexts.append(copy_context())
        return 200

    handle(protocol, supervisor, view)
    with pytest.raises(ResponseStarted, match=r"after_response\(\) came too late: the response is over; .* launch\(\)"):
        contexts[0].run(after_response, print)


def test_work_that_takes_too_long_is_overtaken_by_what_was_registered_behind_it(
    protocol: str, supervisor: TaskSupervisor, told: Told, quiet: None
) -> None:
    held, ran = threading.Event(), []

    def stuck() -> None:
        held.wait(10)
        ran.append("stuck")

    def following() -> None:
        ran.append("following")
        held.set()

    def view() -> int:
        after_response(stuck, timeout=0.02)
        after_response(following)
        return 200

    handle(protocol, supervisor, view)
    assert ran == ["following", "stuck"]
    assert [name.rpartition(".")[2] for name, _ in told.errors] == ["stuck"]


def test_a_full_bulkhead_drops_work_and_says_so(
    protocol: str, supervisor: TaskSupervisor, told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    ran: list[str] = []
    Bulkhead("mails", max_concurrency=1, max_queue=1, supervisor=supervisor)

    def slow(name: str) -> None:
        time.sleep(0.02)
        ran.append(name)

    def view() -> int:
        for name in "abc":
            after_response(slow, name, bulkhead="mails", name=name)
        return 200

    assert handle(protocol, supervisor, view) == 200
    assert (ran, told.dropped) == (["a", "b"], ["c"])
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == [
        "the job c of GET /orders is lost: the bulkhead 'mails' is full: 1 run and 1 wait; come again later"
    ]


def test_what_cannot_be_work_is_refused_where_it_is_given(protocol: str, supervisor: TaskSupervisor) -> None:
    async def work() -> None: ...

    wrong: list[tuple[Callable[[], object], type[Exception], str]] = [
        (lambda: after_response(None), NotAFunction, "after_response.*found None"),  # type: ignore[arg-type]
        (lambda: after_response(work()), NotAFunction, "found the coroutine .*work"),  # type: ignore[arg-type]
        (lambda: launch(work()), NotAFunction, "launch.*found the coroutine"),  # type: ignore[arg-type]
        (lambda: after_response(work, when="comitted"), ConfigurationError, "when: expected 'committed', "),  # type: ignore[arg-type]
        (lambda: after_response(work, when=3), ConfigurationError, "found 3"),  # type: ignore[arg-type]
        (lambda: after_response(work, bulkhead="mials"), ConfigurationError, "there is no 'mials'"),
        (lambda: launch(work, bulkhead="mials"), ConfigurationError, "there is no 'mials'"),
        (lambda: launch(work, timeout=0), ConfigurationError, "timeout: expected seconds above 0, found 0"),
        (lambda: after_response(work, timeout=-1), ConfigurationError, "found -1"),
        (lambda: launch(work, timeout="5"), ConfigurationError, "seconds as a number, found '5'"),  # type: ignore[arg-type]
    ]
    errors: list[tuple[type[BaseException], str]] = []

    def view() -> int:
        for call, _, _ in wrong:
            try:
                call()
            except Exception as error:
                errors.append((type(error), str(error)))
        return 200

    assert handle(protocol, supervisor, view) == 200
    assert [kind for kind, _ in errors] == [kind for _, kind, _ in wrong]
    for (_, said), (_, _, pattern) in zip(errors, wrong, strict=True):
        assert re.search(pattern, said)


def test_outside_of_a_request_there_is_no_response_to_wait_for() -> None:
    with pytest.raises(NoExchange, match="no current exchange"):
        after_response(print)


def test_without_a_supervisor_of_its_own_a_middleware_has_that_of_the_process() -> None:
    with pytest.raises(ConfigurationError, match="supervisor: expected a TaskSupervisor, found 3"):
        wsgi.PostResponseMiddleware(lambda environ, start_response: [], supervisor=3)  # type: ignore[arg-type]
    assert wsgi.PostResponseMiddleware(lambda environ, start_response: [])._settings.supervisor is default_supervisor()
