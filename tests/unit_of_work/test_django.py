"""Django's transactions as units of work, on databases whose COMMIT really fails."""

import subprocess
import sys
from typing import Any

import pytest
from django.conf import settings
from django.core.signals import request_started
from django.db import IntegrityError, close_old_connections, connections
from django.http import Http404, HttpResponse
from django.urls import path

from postresponse import doom, force_commit
from postresponse.exceptions import ConfigurationError
from postresponse.unit_of_work.django import DjangoUnitOfWork
from tests.unit_of_work.django_project.databases import Database, PostgreSQL, SQLite
from tests.unit_of_work.django_project.driving import COMMIT, KIND, Site, cleared, orders, placing


@COMMIT
@KIND
def test_the_row_is_there_when_the_head_leaves_unless_it_is_to_commit_afterwards(
    database: Database, kind: str, commit: str
) -> None:
    seen: list[int] = []
    site = Site(placing(database), kind, database.alias, commit, on_head=lambda: seen.append(len(database.orders())))
    assert site.get().unit == (201, "committed")
    assert seen == [0 if commit == "after_send" else 1]
    assert len(database.orders()) == 1
    assert database.open_transactions() == 0


@COMMIT
@KIND
def test_a_commit_that_fails_is_told_in_time_and_the_next_request_keeps_its_row(
    database: Database, kind: str, commit: str, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[BaseException] = []
    options = {"on_commit_failed": lambda failure: told.append(failure.exception)}
    answer = Site(placing(database, customer=404), kind, database.alias, commit, options=options).get()
    assert answer.unit == (201 if commit == "after_send" else 500, "failed")
    if commit != "after_send":
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers.keys().isdisjoint({"etag", "set-cookie", "location"})
        assert b"placed" not in answer.body
    assert [type(error) for error in told] == [IntegrityError]
    assert "the unit of work could not commit" in caplog.text
    assert database.open_transactions() == 0
    assert Site(placing(database), kind, database.alias, commit).get().unit == (201, "committed")
    assert database.orders() == [None]


@COMMIT
@KIND
def test_an_answer_from_400_rolls_back(database: Database, kind: str, commit: str) -> None:
    assert Site(placing(database, status=404), kind, database.alias, commit).get().unit == (404, "rolled_back")
    assert Site(placing(database, status=302), kind, database.alias, commit).get().unit == (302, "committed")
    assert len(database.orders()) == 1
    assert database.open_transactions() == 0


@KIND
def test_an_exception_rolls_back_and_django_answers(default: Database, kind: str) -> None:
    def missing(request: Any) -> HttpResponse:
        orders("default").create()
        raise Http404

    def broken(request: Any) -> HttpResponse:
        orders("default").create()
        raise LookupError("broken")

    assert Site(missing, kind).get().unit == (404, "rolled_back")
    answer = Site(broken, kind).get()
    assert (answer.unit, answer.headers["content-type"]) == ((500, "rolled_back"), "text/html; charset=utf-8")
    assert default.orders() == []
    assert default.open_transactions() == 0


@COMMIT
@KIND
def test_a_view_has_the_last_word(default: Database, kind: str, commit: str) -> None:
    def doomed(request: Any) -> HttpResponse:
        orders("default").create()
        doom("stock ran out")
        return HttpResponse(status=201)

    def forced(request: Any) -> HttpResponse:
        orders("default").create()
        force_commit()
        return HttpResponse(status=404)

    assert Site(doomed, kind, commit=commit).get().unit == (201, "rolled_back")
    assert default.orders() == []
    assert Site(forced, kind, commit=commit).get().unit == (404, "committed")
    assert len(default.orders()) == 1


@KIND
def test_another_alias_has_its_own_transaction_and_the_default_none(default: Database, kind: str) -> None:
    other = cleared(SQLite("other"))

    def view(request: Any) -> HttpResponse:
        orders("other").create()
        orders("default").create()
        assert connections["other"].in_atomic_block
        assert not connections["default"].in_atomic_block
        return HttpResponse(status=409)

    assert Site(view, kind, "other").get().unit == (409, "rolled_back")
    assert (other.orders(), default.orders()) == ([], [None])


class Both:
    """A unit of work of two."""

    def __init__(self, *units: Any) -> None:
        self.units = units
        self.active = True

    async def begin(self) -> None: ...

    async def commit(self) -> None:
        for unit in self.units:
            await unit.commit()

    async def rollback(self) -> None:
        for unit in reversed(self.units):
            await unit.rollback()

    async def close(self) -> None:
        for unit in self.units:
            await unit.close()


def test_two_aliases_in_one_request_live_on_one_thread(default: Database) -> None:
    other = cleared(SQLite("other"))
    aliases = [DjangoUnitOfWork("default"), DjangoUnitOfWork("other")]

    def view(request: Any) -> HttpResponse:
        for alias in ("default", "other"):
            assert connections[alias].in_atomic_block
            orders(alias).create()
        return HttpResponse(status=int(request.META["HTTP_WANTED"]) if "HTTP_WANTED" in request.META else 201)

    def make(exchange: Any) -> Both:
        return Both(*[alias(exchange) for alias in aliases])

    assert Site(view, "asgi", unit_of_work=make).get().unit == (201, "committed")
    assert (default.orders(), other.orders()) == ([None], [None])


@pytest.mark.service("postgresql")
@KIND
def test_a_view_that_asks_nothing_of_the_database_sends_no_statement(kind: str, postgresql: PostgreSQL) -> None:
    states: list[str] = []

    def view(request: Any) -> HttpResponse:
        assert connections["postgresql"].in_atomic_block
        states.extend(postgresql.states())
        return HttpResponse()

    assert Site(view, kind, "postgresql").get().unit == (200, "committed")
    assert states == ["idle"]


def test_a_persistent_connection_stays_open_and_in_autocommit(
    default: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    connections["default"].close()
    monkeypatch.setitem(connections.settings["default"], "CONN_MAX_AGE", 60)
    try:
        assert Site(placing(default), "wsgi").get().unit == (201, "committed")
        kept = connections["default"].connection
        assert kept is not None
        assert Site(placing(default, 404), "wsgi").get().unit == (500, "failed")
        assert Site(placing(default, status=404), "wsgi").get().unit == (404, "rolled_back")
        assert Site(placing(default), "wsgi").get().unit == (201, "committed")
        assert connections["default"].connection is kept
        assert len(default.orders()) == 2
    finally:
        connections["default"].close()


@KIND
def test_djangos_test_client_does_not_move_the_transaction_in_front_of_close_old_connections(
    default: Database, kind: str
) -> None:
    # What the client does around each request; it is what puts Django's own receiver last.
    request_started.disconnect(close_old_connections)
    request_started.connect(close_old_connections)
    site = Site(placing(default), kind)
    assert [site.get().unit for _ in range(2)] == [(201, "committed")] * 2
    assert len(default.orders()) == 2


def test_a_request_inside_of_a_request_takes_part_in_its_transaction(default: Database) -> None:
    from django.test import RequestFactory
    from django.test.client import ClientHandler

    def inner(request: Any) -> HttpResponse:
        orders("default").create()
        return HttpResponse("inner")

    def view(request: Any) -> HttpResponse:
        settings.ROOT_URLCONF = (path("", inner),)
        factory = RequestFactory()
        environ = factory._base_environ(PATH_INFO="/")
        assert ClientHandler()(environ).content == b"inner"
        return HttpResponse(status=409)

    assert Site(view, "wsgi").get().unit == (409, "rolled_back")
    assert default.orders() == []


def test_an_alias_that_does_not_exist_is_refused_with_those_that_do(project: None) -> None:
    with pytest.raises(
        ConfigurationError, match=r"'defualt'; did you mean 'default'.*there are: default, other, postgresql"
    ):
        DjangoUnitOfWork("defualt")
    with pytest.raises(ConfigurationError, match="alias None"):
        DjangoUnitOfWork(None)  # type: ignore[arg-type]


def test_an_alias_without_autocommit_is_refused(project: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(connections.settings["other"], "AUTOCOMMIT", False)
    with pytest.raises(ConfigurationError, match=r"'other'.* AUTOCOMMIT off"):
        DjangoUnitOfWork("other")


LATE = """
import logging
from django.conf import settings
from postresponse.exceptions import ConfigurationError
from postresponse.unit_of_work.django import DjangoUnitOfWork
from postresponse.wsgi import PostResponseMiddleware

good, bad = DjangoUnitOfWork(), DjangoUnitOfWork("typo")
settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}})
for unit in (good, bad):
    app = PostResponseMiddleware(lambda environ, start: start("204 No Content", []) and [], unit_of_work=unit)
    body = app({"REQUEST_METHOD": "GET", "PATH_INFO": "/"}, lambda status, headers: print(status) or print)
    getattr(body, "close", list)()
"""


def test_settings_that_are_loaded_later_are_checked_by_the_first_request() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", LATE], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.splitlines() == ["204 No Content", "500 Internal Server Error"]
    assert "no database has the alias 'typo'" in done.stderr
