"""Work that is held back, and work that runs at once, without pytest's help."""

import threading
import unittest
from dataclasses import replace
from typing import Any

import anyio
import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from werkzeug.test import Client
from werkzeug.wrappers import Response

from postresponse import after_response, first_success, launch, scope
from postresponse.asgi import PostResponseMiddleware as OverASGI
from postresponse.exceptions import ConfigurationError, WrongThread
from postresponse.observing import ObservedCommit, Observer
from postresponse.testing import captured, immediate, orders, recorder
from postresponse.work import JobState, TaskSupervisor
from postresponse.wsgi import PostResponseMiddleware as OverWSGI

pytestmark = pytest.mark.anyio
ran: list[Any] = []


@pytest.fixture(autouse=True)
def _empty() -> None:
    ran.clear()


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def note(what: object, then: object = None) -> None:
    """Take it down, with whatever thread runs it, and leave more work."""
    ran.append((what, threading.get_ident()))
    if then is not None:
        launch(note, then)


async def anote(what: object) -> None:
    await anyio.sleep(0.001)
    ran.append((what, threading.get_ident()))


def fail(error: BaseException) -> None:
    raise error


def wsgi_app(environ: Any, start_response: Any) -> Any:
    after_response(note, "first", "third")
    after_response(anote, "second")
    return Response("done")(environ, start_response)


async def handler(request: Request) -> PlainTextResponse:
    after_response(note, "sync")
    after_response(anote, "async")
    if "wait" in request.query_params:
        await launch(note, "waited for")
        await first_success(anote, args=("won",))
    return PlainTextResponse("done")


def asgi_app() -> Any:
    return OverASGI(Starlette(routes=[Route("/", handler)]))


async def get(app: Any, path: str = "/") -> None:
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://test") as client:
        assert (await client.get(path)).text == "done"


def whats() -> list[object]:
    return [what for what, _ in ran]


def test_work_is_held_back_until_it_is_run_here_with_what_comes_of_it() -> None:
    with captured() as work:
        Client(OverWSGI(wsgi_app)).get("/", buffered=True)
        assert ([(job.name, job.args) for job in work.pending], ran) == (
            [("note", ("first", "third")), ("anote", ("second",))],
            [],
        )
        jobs = work.run()
        assert [job.state for job in jobs] == [JobState.DONE] * 3
        assert (whats(), work.pending) == (["first", "second", "third"], ())
        assert {thread for what, thread in ran if what != "second"} == {threading.get_ident()}
        assert work.run() == ()


def test_all_of_it_runs_and_what_it_raised_comes_as_one_group(quiet: None) -> None:
    with captured() as work:
        for error in (ValueError("a"), KeyError("b")):
            launch(fail, error, name=f"fail with {error}")
        launch(note, "all the same")
        with pytest.raises(ExceptionGroup, match="work failed: fail with a, fail with 'b'") as raised:
            work.run()
        assert [type(each) for each in raised.value.exceptions] == [ValueError, KeyError]
    assert whats() == ["all the same"]


def test_what_was_not_run_is_cancelled_and_who_cancelled_is_not_run() -> None:
    with captured() as work:
        kept, cancelled = launch(note, "never"), launch(note, "never")
        assert cancelled.cancel()
        assert [each.job for each in work.pending] == [kept]
    assert (kept.state, cancelled.state, ran) == (JobState.CANCELLED, JobState.CANCELLED, [])


def test_whoever_waits_for_it_has_it_run() -> None:
    with captured() as work:
        job = launch(note, "at once")
        launch(anote, "later")
        job.result()
        assert (whats(), [each.name for each in work.pending]) == (["at once"], ["anote"])


def test_a_block_inside_takes_the_work_and_both_see_the_exchange() -> None:
    app = OverWSGI(wsgi_app)
    with captured() as outer:
        with captured() as inner:
            Client(app).get("/", buffered=True)
            assert (len(inner.pending), len(outer.pending)) == (2, 0)
        with immediate() as at_once:
            Client(app).get("/", buffered=True)
        assert (whats(), outer.pending) == (["first", "third", "second"], ())
        assert (len(inner.traces), len(at_once.traces), len(outer.traces)) == (1, 1, 2)
        launch(note, "outer")
        assert [each.name for each in outer.pending] == ["note"]


def test_behind_the_block_a_middleware_is_as_it_was() -> None:
    class Own(Observer):
        """The application's own."""

    for app, unheard in ((OverWSGI(wsgi_app), True), (OverWSGI(wsgi_app, observers=[Own()]), False)):
        before = app._settings
        with captured() as work:
            assert app._settings.observers == (*before.observers, work)
            inside = OverWSGI(wsgi_app)
            assert list(inside._settings.observers) == [work]
        assert app._settings.observers == before.observers
        assert list(inside._settings.observers) == []
        assert (app._settings.unheard, inside._settings.unheard) == (unheard, True)


def test_every_supervisor_is_meant_and_a_closed_one_takes_work_again() -> None:
    supervisor = TaskSupervisor(name="own")
    supervisor.open()
    supervisor.close()
    with captured() as work:
        with scope("a script", supervisor=supervisor):
            after_response(note, "of a script")
        supervisor.launch(note, "of a supervisor", name="named")
        assert [(each.name, each.route) for each in work.pending] == [("note", "with a script"), ("named", "")]
        work.run()
    assert whats() == ["of a script", "of a supervisor"]
    supervisor.close()


def test_a_response_that_is_not_closed_is_told_of() -> None:
    with captured() as work:
        response = Client(OverWSGI(wsgi_app)).get("/left/open")
        with pytest.raises(ConfigurationError, match=r"waits for the end of GET /left/open: .*buffered=True"):
            work.run()
        with pytest.raises(ConfigurationError, match=r"no exchange was seen; begun and not over: GET /left/open"):
            work.assert_committed_before_sent()
        response.close()
        assert [each.name for each in work.pending] == ["note", "anote"]


def test_a_filter_that_matches_nothing_lists_what_was_seen() -> None:
    with captured() as work:
        Client(OverWSGI(wsgi_app)).get("/orders", buffered=True)
        with pytest.raises(ConfigurationError, match=r"on '/order'; did you mean 'GET /orders'\?"):
            work.assert_committed_before_sent("/order")
        with pytest.raises(ConfigurationError, match=r"no exchange committed anything; seen:\n  GET /orders: nothing"):
            work.assert_committed_before_sent()
        with pytest.raises(AssertionError, match="nothing was committed"):
            work.assert_committed_before_sent("/orders")
        with pytest.raises(
            ConfigurationError, match=r"called 'notes'; did you mean 'note'\? \(there are: anote, note\)"
        ):
            work.assert_sent_before("notes")
        work.assert_sent_before("note", "GET /orders")


def test_at_once_means_before_the_response_is_closed() -> None:
    with immediate() as work:
        Client(OverWSGI(wsgi_app)).get("/", buffered=True)
        assert whats() == ["first", "third", "second"]
        work.assert_sent_before("anote")


def test_what_fails_at_once_fails_the_block(quiet: None) -> None:
    with pytest.raises(ExceptionGroup, match="work failed: fail"), immediate():
        launch(fail, ValueError())
    with immediate() as work:
        launch(fail, ValueError())
        with pytest.raises(ExceptionGroup):
            work.raise_failures()


async def test_held_back_on_an_event_loop_it_runs_there() -> None:
    with captured() as work:
        await get(asgi_app())
        assert ([each.name for each in work.pending], ran) == (["note", "anote"], [])
        with pytest.raises(WrongThread, match=r"await arun\(\)"):
            work.run()
        await work.arun()
    assert whats() == ["sync", "async"]
    assert dict(ran)["async"] == threading.get_ident() != dict(ran)["sync"]


async def test_a_handler_that_waits_for_its_work_gets_it() -> None:
    with captured() as work:
        await get(asgi_app(), "/?wait=1")
        assert whats() == ["waited for", "won"]
        await work.arun()
    assert whats() == ["waited for", "won", "sync", "async"]


async def test_at_once_on_an_event_loop_the_request_waits_for_it() -> None:
    with immediate():
        await get(asgi_app(), "/?wait=1")
        assert sorted(map(str, whats())) == ["async", "sync", "waited for", "won"]


def test_unittest_has_it_too() -> None:
    class Orders(unittest.TestCase):
        """As somebody writes it who has no pytest."""

        def setUp(self) -> None:
            self.work = self.enterContext(captured())

        def runTest(self) -> None:
            Client(OverWSGI(wsgi_app)).get("/", buffered=True)
            assert [job.name for job in self.work.pending] == ["note", "anote"]
            self.work.assert_sent_before("note")
            self.work.run()

    result = Orders().run()
    assert result is not None
    assert (result.testsRun, result.wasSuccessful()) == (1, True)


def test_a_timeout_counts_from_the_run(quiet: None) -> None:
    with captured() as work:
        launch(anyio.sleep, 60, timeout=0.05)
        launch(note, "in time", timeout=60)
        with pytest.raises(ExceptionGroup) as raised:
            work.run()
    assert [str(each) for each in raised.value.exceptions] == ["sleep was not done in 0.05 s"]
    assert whats() == ["in time"]


def test_an_exchange_that_goes_on_elsewhere_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "PATIENCE", 0.05)
    bodies: list[Any] = []
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/stream"}
    app = OverWSGI(wsgi_app)
    with captured() as work:
        thread = threading.Thread(target=lambda: bodies.append(app(environ, lambda *_: None)))
        thread.start()
        thread.join()
        assert len(work.traces) == 0
        monkeypatch.setattr(recorder, "PATIENCE", 60)
        assert len(work.traces) == 0  # at once
        bodies[0].close()
        assert [trace.path for trace in work.traces] == ["/stream"]


def test_work_that_is_about_to_start_elsewhere_is_waited_for() -> None:
    reached, gate = threading.Event(), threading.Event()

    def when(outcome: object) -> bool:
        reached.set()
        return gate.wait(5)

    def app(environ: Any, start_response: Any) -> Any:
        after_response(note, "late", when=when)
        return Response("done")(environ, start_response)

    with captured() as work:
        thread = threading.Thread(target=Client(OverWSGI(app)).get, args=("/",), kwargs={"buffered": True})
        thread.start()
        assert reached.wait(5)  # its exchange was told to be over, and its work has not started
        threading.Timer(0.05, gate.set).start()
        assert [each.name for each in work.pending] == ["note"]
        thread.join()


def test_a_commit_that_is_only_seen_counts_and_a_response_that_was_cut_off_is_told() -> None:
    with captured() as work:
        Client(OverWSGI(wsgi_app)).get("/orders", buffered=True)
        (trace,) = work.traces
        jobs = [each.job for each in work.pending]
    moments = trace.outcome.moments
    assert moments.head_sent is not None
    early, late = moments.began, moments.ended
    for began, passes in ((early, True), (late, False)):
        commit = ObservedCommit(began, began, not passes, True, None, "sqlalchemy", "shop.py:7")
        seen = orders.Seen([replace(trace, commits=(commit,))], [], [])
        if passes:
            orders.assert_committed_before_sent(seen, None)
        else:
            with pytest.raises(AssertionError, match="AFTER the first byte") as raised:
                orders.assert_committed_before_sent(seen, None)
            assert "observed, not managed, shop.py:7" in str(raised.value)
            assert "leave the commit to it" in str(raised.value)
            orders.assert_sent_before(seen, "commit", None)
    cut = replace(trace.outcome, moments=replace(moments, body_sent=None))
    with pytest.raises(AssertionError, match="the response never left as a whole before note"):
        orders.assert_sent_before(orders.Seen([replace(trace, outcome=cut)], jobs, []), "note", None)
