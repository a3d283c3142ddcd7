"""The entry of MIDDLEWARE in one process: by Django's own test clients, and where there is nothing that it could do."""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import Any

import pytest
from django.apps import apps
from django.core.handlers.wsgi import WSGIHandler
from django.db import connection
from django.http import HttpResponse, StreamingHttpResponse
from django.test import AsyncClient, Client, override_settings
from django.urls import path

from postresponse import CommitPolicy, Outcome, Retry, after_response, current_exchange, doom
from postresponse.exceptions import ConfigurationError
from postresponse.integrations.django import get_wsgi_application
from tests.fakes import run_wsgi
from tests.servers.site import eventually
from tests.unit_of_work.django_project.databases import SQLite

pytestmark = pytest.mark.usefixtures("project")

ENTRY = "postresponse.integrations.django.PostResponseMiddleware"
CLIENT = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
MODE = pytest.mark.parametrize("at", ["head", "buffered", "after_send"])


@contextmanager
def project(*views: Any, middleware: Any = (ENTRY,), **options: Any) -> Iterator[list[Outcome]]:
    """A project with one view at /, and the outcomes of its requests."""
    outcomes: list[Outcome] = []
    given = {"UNIT_OF_WORK": "default", "ON_FINISHED": outcomes.append, **options}
    urls: Any = ModuleType("urls_of_the_entry")
    urls.urlpatterns = [path("", views[0]), path("orders", views[0])]  # where the strict server asks
    urls.handler500 = lambda request: HttpResponse("sorry", status=500)
    with override_settings(ROOT_URLCONF=urls, MIDDLEWARE=list(middleware), POSTRESPONSE=given):
        yield outcomes


def ask(is_async: bool, method: str = "post") -> Any:
    """Ask by Django's own client."""
    if not is_async:
        return getattr(Client(raise_request_exception=False), method)("/")

    async def main() -> Any:
        response = await getattr(AsyncClient(raise_request_exception=False), method)("/")
        if response.streaming:
            response.taken = b"".join([part async for part in response.streaming_content])
        return response

    return asyncio.run(main())


def orders() -> Any:
    return apps.get_model("django_project.Order").objects


def placing(customer: int | None = None, status: int = 201) -> Any:
    def place(request: Any) -> HttpResponse:
        orders().create(customer_id=customer)
        return HttpResponse("placed", status=status, headers={"ETag": "x"})

    return place


@pytest.mark.parametrize(
    ("is_async", "at"),
    [(False, "head"), (False, "buffered"), (False, "after_send"), (True, "head"), (True, "buffered")],
)
def test_djangos_own_client_passes_through_it(default: SQLite, is_async: bool, at: str) -> None:
    with project(placing(), COMMIT=at) as outcomes:
        answer = ask(is_async)
    assert (answer.status_code, answer.content, default.orders()) == (201, b"placed", [None])
    assert [(each.ending, each.unit_of_work, each.bytes_sent) for each in outcomes] == [("unconfirmed", "committed", 6)]
    assert not answer.has_header("Content-Length")


@CLIENT
@pytest.mark.parametrize("at", ["head", "buffered"])
def test_a_commit_that_fails_is_told_to_the_client(default: SQLite, is_async: bool, at: str) -> None:
    with project(placing(404), COMMIT=at) as outcomes:
        answer = ask(is_async)
    assert (answer.status_code, answer.content, answer.has_header("ETag")) == (500, b"sorry", False)
    assert [each.unit_of_work for each in outcomes] == ["failed"]
    assert default.orders() == []


@CLIENT
@pytest.mark.parametrize("status", [200, 204, 304])
def test_an_empty_response_is_no_broken_one(default: SQLite, is_async: bool, status: int) -> None:
    def view(request: Any) -> HttpResponse:
        current_exchange().on_start(lambda exchange: exchange.headers.append(("X-Hook", "seen")))
        return HttpResponse(status=status)

    with project(view) as outcomes:
        answer = ask(is_async)
    assert (answer.status_code, answer.content, answer["X-Hook"]) == (status, b"", "seen")
    assert answer.has_header("Content-Length") == (status == 200)
    assert [each.ending for each in outcomes] == ["unconfirmed" if status == 200 else "handed_over"]


@CLIENT
def test_what_a_view_says_is_heard(default: SQLite, is_async: bool) -> None:
    told: list[str] = []

    def view(request: Any) -> HttpResponse:
        response = placing()(request)
        response.set_cookie("a", "1", httponly=True)
        exchange = current_exchange()
        exchange.on_start(on_start)
        exchange.before_commit(lambda: told.append("before_commit"))
        exchange.after_rollback(lambda: told.append("after_rollback"))
        after_response(told.append, "never")
        after_response(told.append, "rolled back", when="rolled_back")
        doom("on second thoughts")
        return response

    def on_start(exchange: Any) -> None:
        exchange.status = 202
        exchange.headers.extend([("Set-Cookie", "b=2; Path=/"), ("Vary", "x"), ("Vary", "y")])

    with project(view) as outcomes:
        answer = ask(is_async)
    assert (answer.status_code, answer.reason_phrase, answer["Vary"]) == (202, "Accepted", "x, y")
    assert answer.cookies["a"]["httponly"]
    assert answer.cookies["b"].value == "2"
    assert [each.unit_of_work for each in outcomes] == ["rolled_back"]
    eventually(lambda: told == ["after_rollback", "rolled back"], "work and hooks were called")


@CLIENT
@MODE
def test_an_exception_of_a_view_rolls_back(default: SQLite, is_async: bool, at: str) -> None:
    def view(request: Any) -> HttpResponse:
        orders().create()
        raise LookupError

    with project(view, COMMIT=at) as outcomes:
        assert ask(is_async).content == b"sorry"
    assert [(each.unit_of_work, each.status) for each in outcomes] == [("rolled_back", 500)]
    assert default.orders() == []


@pytest.mark.parametrize("at", ["head", "buffered"])
def test_an_async_stream_passes_part_by_part(default: SQLite, at: str) -> None:
    async def view(request: Any) -> StreamingHttpResponse:
        await orders().acreate()

        async def body() -> AsyncIterator[bytes]:
            for part in (b"", b"one", b"", b"two"):
                yield part
            states.append(current_exchange().state)

        return StreamingHttpResponse(body())

    states: list[str] = []
    with project(view, COMMIT=at) as outcomes:
        assert ask(is_async=True).taken == b"onetwo"
    # Held: the end was reached while nothing had left.
    assert states == ["decided" if at == "buffered" else "sending"]
    assert [(each.ending, each.unit_of_work) for each in outcomes] == [("handed_over", "committed")]
    assert default.orders() == [None]


@pytest.mark.parametrize(("overflow", "status", "unit"), [("error", 500, "rolled_back"), ("head", 200, "committed")])
def test_an_async_stream_over_the_limit_of_what_is_held(default: SQLite, overflow: Any, status: int, unit: str) -> None:
    async def view(request: Any) -> StreamingHttpResponse:
        await orders().acreate()

        async def body() -> AsyncIterator[bytes]:
            for number in range(5):
                yield b"%d" % number * 4
            ended.append("ended")

        return StreamingHttpResponse(body())

    ended: list[str] = []
    with project(view, COMMIT=CommitPolicy("buffered", max_body=10, on_overflow=overflow)) as outcomes:
        answer = ask(is_async=True)
    taken = b"sorry" if overflow == "error" else b"00001111222233334444"
    assert (answer.status_code, answer.taken if answer.streaming else answer.content) == (status, taken)
    assert [each.unit_of_work for each in outcomes] == [unit]
    assert bool(ended) == (overflow == "head")


def test_a_view_that_is_cancelled_rolls_back_on_its_thread(default: SQLite) -> None:
    async def main() -> None:
        began = asyncio.Event()

        async def view(request: Any) -> HttpResponse:
            await orders().acreate()
            began.set()
            await asyncio.Event().wait()
            raise AssertionError

        with project(view) as outcomes:
            task = asyncio.create_task(AsyncClient().post("/"))
            await began.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert [each.unit_of_work for each in outcomes] == ["rolled_back"]

    asyncio.run(main())
    assert default.orders() == []


@CLIENT
def test_inside_of_the_outermost_application_or_another_entry_it_steps_aside(default: SQLite, is_async: bool) -> None:
    with project(placing(), middleware=[ENTRY, ENTRY]) as outcomes:
        assert ask(is_async).status_code == 201
    assert len(outcomes) == 1
    with project(placing()) as outcomes:
        assert run_wsgi(get_wsgi_application(), method="POST").code == 201
    assert [each.ending for each in outcomes] == ["handed_over"]


def test_without_a_unit_of_work_it_observes(default: SQLite) -> None:
    with project(placing(), UNIT_OF_WORK=None) as outcomes:
        assert ask(is_async=False).status_code == 201
    assert [(each.ending, each.unit_of_work) for each in outcomes] == [("unconfirmed", "none")]
    assert default.orders() == [None]


def test_a_unit_that_cannot_begin_is_answered_by_the_page_of_the_site() -> None:
    class Broken:
        def begin(self) -> None:
            raise ConnectionError

        def __getattr__(self, name: str) -> Any:
            return lambda: None

    with project(placing(), UNIT_OF_WORK=lambda exchange: Broken()) as outcomes:
        assert ask(is_async=False).content == b"sorry"
    assert [each.status for each in outcomes] == [500]


def test_what_it_cannot_do_is_refused(default: SQLite) -> None:
    refused = partial(pytest.raises, ConfigurationError)
    retry = CommitPolicy(retry=Retry())
    with project(placing(), COMMIT=retry), refused(match=r"a Retry needs get_wsgi_application\(\)"):
        Client().post("/")
    with project(placing(), UNIT_OF_WROK="default"), refused(match="has no option 'UNIT_OF_WROK'; did you mean 'UNIT_"):
        WSGIHandler()
    with project(placing(), UNIT_OF_WORK="defualt"), refused(match="no database has the alias 'defualt'; did you mean"):
        WSGIHandler()
    with override_settings(POSTRESPONSE=["COMMIT"], MIDDLEWARE=[ENTRY]), refused(match="expected a dictionary of opt"):
        WSGIHandler()
    assert not connection.in_atomic_block


@pytest.mark.parametrize(("at", "overflow"), [("head", ""), ("buffered", "error"), ("buffered", "head")])
def test_behind_a_middleware_without_an_async_form_an_async_stream_stays_one(
    default: SQLite, at: str, overflow: str
) -> None:
    class Sync:
        def __init__(self, get_response: Any) -> None:
            self._get_response = get_response

        def __call__(self, request: Any) -> Any:
            return self._get_response(request)

    async def view(request: Any) -> StreamingHttpResponse:
        await orders().acreate()

        async def body() -> AsyncIterator[bytes]:
            tasks.add(asyncio.current_task())
            yield b"one"
            tasks.add(asyncio.current_task())
            yield b"two"

        return StreamingHttpResponse(body())

    tasks: set[Any] = set()
    policy = CommitPolicy(at, max_body=4, on_overflow=overflow) if at == "buffered" else at  # type: ignore[arg-type]
    module: Any = ModuleType("middlewares_of_the_entry")
    module.Sync = Sync
    sys.modules[module.__name__] = module
    with project(view, middleware=[ENTRY, f"{module.__name__}.Sync"], COMMIT=policy) as outcomes:
        answer = ask(is_async=True)
    if overflow == "error":
        assert (answer.status_code, answer.content) == (500, b"sorry")
    else:
        assert answer.taken == b"onetwo"
    assert [each.unit_of_work for each in outcomes] == ["rolled_back" if overflow == "error" else "committed"]
    assert len(tasks) == 1
