"""Django's transactions live on one thread a request, whatever becomes of the request."""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import connections, transaction
from django.http import HttpResponse, StreamingHttpResponse
from werkzeug.test import create_environ

from postresponse import asgi, current_exchange
from postresponse.core.lifecycle import Outcome
from postresponse.exceptions import UnitOfWorkError
from tests.services.blackhole import Blackhole
from tests.unit_of_work.django_project.databases import Database, PostgreSQL
from tests.unit_of_work.django_project.driving import (
    KIND,
    Answer,
    Site,
    orders,
    placing,
)


@KIND
def test_the_view_and_the_commit_share_a_thread_that_ends_with_the_request(default: Database, kind: str) -> None:
    threads: list[threading.Thread] = []

    def view(request: Any) -> HttpResponse:
        threads.append(threading.current_thread())
        transaction.on_commit(lambda: threads.append(threading.current_thread()))
        return HttpResponse()

    assert Site(view, kind).get().unit == (200, "committed")
    assert threads[0] is threads[1]
    assert (threads[0] is threading.main_thread()) is (kind == "wsgi")
    if kind != "wsgi":
        threads[0].join(10)
        assert not threads[0].is_alive()


@pytest.mark.parametrize("kind", ["asgi", "async"])
def test_what_a_hook_opens_behind_the_commit_is_closed_with_the_thread(default: Database, kind: str) -> None:
    opened: list[Any] = []

    def look() -> None:
        assert orders("default").count() == 1
        opened.extend((connections["default"], threading.current_thread()))

    async def finished(outcome: Outcome) -> None:
        await sync_to_async(look)()

    def view(request: Any) -> HttpResponse:
        orders("default").create()
        current_exchange().on_finished(finished)
        return HttpResponse()

    assert Site(view, kind).get().unit == (200, "committed")
    connection, thread = opened
    thread.join(10)
    assert connection.connection is None


def test_two_requests_at_once_do_not_share_a_transaction(database: Database) -> None:
    async def both() -> tuple[Answer, Answer]:
        written, read = asyncio.Event(), asyncio.Event()

        async def view(request: Any) -> HttpResponse:
            if not written.is_set():
                await orders(database.alias).acreate()
                written.set()
                await read.wait()
                return HttpResponse(status=201)
            return HttpResponse(str(await orders(database.alias).acount()), status=404)

        site = Site(view, "asgi", database.alias)
        site.route()
        first = asyncio.create_task(site.aget())
        await written.wait()
        second = await site.aget()
        read.set()
        return await first, second

    first, second = asyncio.run(both())
    assert (second.body, second.unit) == (b"0", (404, "rolled_back"))
    assert first.unit == (201, "committed")
    assert len(database.orders()) == 1


def test_requests_one_after_another_in_one_task_do_not_share_a_thread_with_two_at_once_behind_them(
    default: Database,
) -> None:
    threads: list[int] = []

    async def requests() -> None:
        together = threading.Barrier(2)

        def view(request: Any) -> HttpResponse:
            if len(threads) >= 1:
                together.wait(10)
            threads.append(threading.get_ident())
            return HttpResponse()

        site = Site(view, "asgi")
        site.route()
        middleware = site.wrapped(Answer())

        async def request() -> None:
            received = [{"type": "http.request", "body": b""}]

            async def receive() -> Any:
                return received.pop() if received else await asyncio.Event().wait()

            async def send(message: Any) -> None: ...

            scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b""}
            await middleware(scope, receive, send)

        await request()
        await asyncio.gather(request(), request())

    asyncio.run(requests())
    assert threads[1] != threads[2]


@pytest.mark.parametrize("leaving", ["disconnect", "cancel"])
def test_a_request_that_is_cut_off_is_rolled_back_on_its_own_thread(
    database: Database, leaving: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def cut_off() -> Answer:
        written = asyncio.Event()

        async def view(request: Any) -> HttpResponse:
            await orders(database.alias).acreate()
            written.set()
            await asyncio.Event().wait()
            raise AssertionError("never")

        site, answer = Site(view, "asgi", database.alias), Answer()
        site.route()
        communicator = site.communicator(answer)
        # `future` starts the application without waiting for any output.
        task = communicator.future
        await written.wait()
        assert database.open_transactions() == 1
        if leaving == "disconnect":
            communicator.input_queue.put_nowait({"type": "http.disconnect"})
        else:
            task.cancel()
        await asyncio.wait([task], timeout=10)
        assert task.done()
        return answer

    with caplog.at_level(logging.ERROR):
        answer = asyncio.run(cut_off())
    assert answer.outcome is not None
    assert (answer.status, answer.outcome.unit_of_work) == (0, "rolled_back")
    assert caplog.text == ""
    assert database.orders() == []
    assert database.open_transactions() == 0


def test_a_request_that_ran_in_a_task_of_its_own_is_rolled_back_on_its_thread(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    async def body() -> AsyncIterator[str]:
        yield "first"
        raise LookupError("broken")

    def view(request: Any) -> StreamingHttpResponse:
        orders(database.alias).create()
        return StreamingHttpResponse(body())

    async def request() -> Answer:
        answer = Answer()
        site = Site(view, "asgi", database.alias, "buffered")
        site.route()
        inner = site.wrapped(answer)

        async def layer(scope: Any, receive: Any, send: Any) -> None:
            await asyncio.create_task(inner(scope, receive, send))

        outer = asgi.PostResponseMiddleware(layer)
        with pytest.raises(LookupError):
            await site.communicator(answer, outer).wait(10)  # type: ignore[no-untyped-call]
        return answer

    assert asyncio.run(request()).unit == (0, "rolled_back")
    assert "could not" not in caplog.text
    assert database.orders() == []
    assert database.open_transactions() == 0


def test_a_body_that_is_closed_on_another_thread_commits_nothing_and_spoils_no_connection(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    answer = Answer()
    site = Site(placing(database), "wsgi", database.alias, "after_send")
    site.route()
    body = site.wrapped(answer)(create_environ("/"), lambda *args: None)
    closing = threading.Thread(target=body.close)
    closing.start()
    closing.join(10)
    assert answer.outcome is not None
    assert answer.outcome.unit_of_work == "failed"
    assert isinstance(answer.outcome.exception, UnitOfWorkError)
    assert "began on another thread" in caplog.text
    assert database.orders() == []
    assert database.open_transactions() == 0
    assert site.get().unit == (201, "committed")


@pytest.fixture
def dark(postgresql: PostgreSQL, monkeypatch: pytest.MonkeyPatch) -> Iterator[Blackhole]:
    """A proxy in front of PostgreSQL, as the alias "dark"."""
    proxy = Blackhole("127.0.0.1", 5432)
    options = {**connections.settings["postgresql"]["OPTIONS"], "gssencmode": "disable", "connect_timeout": 2}
    monkeypatch.setitem(
        connections.settings,
        "dark",
        {**connections.settings["postgresql"], "HOST": "127.0.0.1", "PORT": proxy.port, "OPTIONS": options},
    )
    yield proxy
    connections["dark"].close()
    del connections["dark"]
    proxy.close()


@pytest.mark.service("postgresql")
@KIND
def test_a_rollback_that_hangs_is_cut_off(dark: Blackhole, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    def view(request: Any) -> HttpResponse:
        orders("dark").create()
        dark.dark.set()
        return HttpResponse(status=409)

    began = time.monotonic()
    site = Site(view, kind, "dark", options={"cleanup_timeout": 0.3})
    assert site.get().unit == (409, "rolled_back")
    assert time.monotonic() - began < 5
    assert "could not roll back" in caplog.text
    assert "could not be given up" not in caplog.text
    dark.dark.clear()
    site.view = lambda _: HttpResponse(str(orders("dark").count()))
    assert site.get().unit == (200, "committed")
