"""Conflicts that SQLite and MariaDB really report, and requests that are really run again.

Those of PostgreSQL are in `tests/servers/test_retry.py`. Somebody else, on another connection, is in the way of the
first attempt and out of it before the second. But for a deadlock the transaction of the first is left open by the
database, with what it had stored, and has to be gone before the second.
"""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import flask
import pytest
from sqlalchemy import Engine, ExceptionContext, create_engine, event, text
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import NullPool
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from postresponse import CommitPolicy, Outcome, Retry, asgi, current_exchange, wsgi
from postresponse.unit_of_work.sqlalchemy import AsyncSQLAlchemyUnitOfWork, SQLAlchemyUnitOfWork
from tests.fakes import run_asgi, run_wsgi
from tests.services import mariadb

View = Callable[[Session], object]
Answer = tuple[int | None, bytes]
Serve = Callable[[Callable[[Session], str], dict[str, Any]], Answer]
"""Answers a request with what a view returns, with a middleware of these options."""

DEADLOCK, LOCK_WAIT_TIMEOUT = 1213, 1205

on_mariadb = pytest.mark.service("mariadb")
every_point = pytest.mark.parametrize("at", ["head", "buffered"])
sync_sessions = pytest.mark.parametrize("kind", ["wsgi", "asgi"])
all_sessions = pytest.mark.parametrize("kind", ["wsgi", "asgi", "asgi-async"])


class Site:
    """Orders that a view places in a session, behind a framework that makes a 500 of a failing statement.

    Attributes:
        others: An engine for whoever else is there.
        conflicts: What the database reported: where, and its code.
        outcomes: Of all requests.
        committed: The attempts that were told of their commit.

    Args:
        kind: The protocol, and for "asgi-async" an async session.
        url: Of the database, with the driver of a sync engine.
        at: When to commit.
        options: Of the driver.
    """

    def __init__(self, kind: str, url: str, at: Any, options: dict[str, Any]) -> None:
        self.conflicts: list[tuple[str, int]] = []
        self.outcomes: list[Outcome] = []
        self.committed: list[int] = []
        self.others: Engine = create_engine(url, poolclass=NullPool)
        self._serve, self.engine = SERVING[kind](url, options)
        event.listen(self.engine, "handle_error", self._on_error)
        commit = CommitPolicy(at, retry=Retry(attempts=3, backoff=0))
        self._middleware: dict[str, Any] = {"commit": commit, "on_finished": self.outcomes.append}

    def post(self, view: View) -> Answer:
        """Answer one request whose handler calls *view*, and says which attempt it was."""

        def handle(session: Session) -> str:
            exchange = current_exchange()
            exchange.after_commit(lambda: self.committed.append(exchange.attempt))
            view(session)
            return str(exchange.attempt)

        return self._serve(handle, self._middleware)

    @property
    def attempts(self) -> list[int]:
        """The attempt that placed each order, as somebody else sees it."""
        with self.others.connect() as connection:
            return list(connection.scalars(text("SELECT attempt FROM orders ORDER BY id")))

    def _on_error(self, context: ExceptionContext) -> None:
        error = context.original_exception
        code = getattr(error, "sqlite_errorcode", error.args[0])
        self.conflicts.append(("COMMIT" if context.statement is None else "a statement", code))


def sync_unit(url: str, options: dict[str, Any]) -> tuple[SQLAlchemyUnitOfWork, Engine]:
    """One connection for every attempt, which has to be as good as new for each."""
    engine = create_engine(url, connect_args=options, pool_size=1, max_overflow=0, pool_timeout=5)
    return SQLAlchemyUnitOfWork(sessionmaker(engine)), engine


def behind_wsgi(url: str, options: dict[str, Any]) -> tuple[Serve, Engine]:
    db, engine = sync_unit(url, options)

    def serve(handle: Callable[[Session], str], middleware: dict[str, Any]) -> Answer:
        app = flask.Flask(__name__)
        app.add_url_rule("/orders", view_func=lambda: (handle(db.session), 201))
        server = run_wsgi(wsgi.PostResponseMiddleware(app, unit_of_work=db, **middleware))
        return server.code, server.body

    return serve, engine


def behind_asgi(url: str, options: dict[str, Any]) -> tuple[Serve, Engine]:
    db, engine = sync_unit(url, options)

    def serve(handle: Callable[[Session], str], middleware: dict[str, Any]) -> Answer:
        def view(request: Request) -> PlainTextResponse:  # on a thread
            return PlainTextResponse(handle(db.session), 201)

        return by_starlette(view, db, middleware)

    return serve, engine


def behind_asgi_async(url: str, options: dict[str, Any]) -> tuple[Serve, Engine]:
    # Each request has an event loop of its own, which no connection outlives.
    engine = create_async_engine(url.replace("sqlite:", "sqlite+aiosqlite:"), connect_args=options, poolclass=NullPool)
    db = AsyncSQLAlchemyUnitOfWork(async_sessionmaker(engine))

    def serve(handle: Callable[[Session], str], middleware: dict[str, Any]) -> Answer:
        async def view(request: Request) -> PlainTextResponse:
            return PlainTextResponse(await db.session.run_sync(handle), 201)

        return by_starlette(view, db, middleware)

    return serve, engine.sync_engine


def by_starlette(view: Any, db: Any, middleware: dict[str, Any]) -> Answer:
    app = Starlette(routes=[Route("/orders", view)])
    server = run_asgi(asgi.PostResponseMiddleware(app, unit_of_work=db, **middleware))
    return server.status, server.body


SERVING = {"wsgi": behind_wsgi, "asgi": behind_asgi, "asgi-async": behind_asgi_async}


@contextmanager
def serving(kind: str, url: str, at: str, *tables: str, **options: Any) -> Iterator[Site]:
    """A site on a database with these tables; no connection may be left out of the pool."""
    site = Site(kind, url, at, options)
    with site.others.begin() as connection:
        for table in tables:
            connection.execute(text(table))
    yield site
    pool: Any = site.engine.pool
    assert isinstance(pool, NullPool) or pool.checkedout() == 0
    site.engine.dispose()


def place(session: Session) -> None:
    session.execute(text("INSERT INTO orders (attempt) VALUES (:attempt)"), {"attempt": current_exchange().attempt})


def assert_run_again_once(site: Site, view: View, where: str, code: int) -> None:
    """Be served in the second attempt, whose order is the only one; the next request is served in its first."""
    assert site.post(view) == (201, b"2")
    assert site.conflicts == [(where, code)]
    assert [(each.status, each.attempt, each.unit_of_work.value) for each in site.outcomes] == [(201, 2, "committed")]
    assert site.committed == [2]
    assert site.attempts == [2]
    assert site.post(place) == (201, b"1")
    assert site.attempts == [2, 1]


# -- MariaDB ----------------------------------------------------------------------------------------------------------

ON_MARIADB = (
    "CREATE TABLE orders (id INTEGER AUTO_INCREMENT PRIMARY KEY, attempt INTEGER NOT NULL) ENGINE=InnoDB",
    "CREATE TABLE stock (id INTEGER PRIMARY KEY, n INTEGER NOT NULL) ENGINE=InnoDB",
    "INSERT INTO stock VALUES (1, 0), (2, 0), (3, 0), (4, 0), (5, 0), (6, 0), (7, 0), (8, 0), (9, 0)",
)
TAKE = "UPDATE stock SET n = n + 1 WHERE id = {}"


@on_mariadb
@every_point
@sync_sessions
def test_who_is_rolled_back_by_a_real_deadlock_is_run_again(kind: str, at: str) -> None:
    """Of two that wait for each other MariaDB rolls back the one that has done less; whoever came last."""
    with mariadb.database() as url, serving(kind, url, at, *ON_MARIADB) as site, ThreadPoolExecutor(1) as somebody:
        holds = threading.Event()

        def take_all_but_the_first_and_then_that() -> None:
            with site.others.begin() as connection:
                connection.execute(text("UPDATE stock SET n = n + 1 WHERE id > 1"))
                holds.set()
                connection.execute(text(TAKE.format(1)))

        def view(session: Session) -> None:
            place(session)
            session.execute(text(TAKE.format(1)))
            if current_exchange().attempt == 1:
                done.append(somebody.submit(take_all_but_the_first_and_then_that))
                assert holds.wait(20)
            session.execute(text(TAKE.format(2)))

        done: list[Any] = []
        assert_run_again_once(site, view, "a statement", DEADLOCK)
        assert [each.result(20) for each in done] == [None]
        with site.others.connect() as connection:
            assert list(connection.scalars(text("SELECT n FROM stock ORDER BY id"))) == [2, 2, *[1] * 7]


@on_mariadb
@every_point
@sync_sessions
def test_who_has_really_waited_too_long_for_a_lock_is_run_again(kind: str, at: str) -> None:
    """MariaDB then rolls back the statement and not the transaction, which goes on with what came before."""
    with mariadb.database() as url, serving(kind, url, at, *ON_MARIADB) as site, site.others.connect() as somebody:
        somebody.execute(text(TAKE.format(1)))

        def view(session: Session) -> None:
            if current_exchange().attempt == 2:
                somebody.commit()
            session.execute(text("SET innodb_lock_wait_timeout = 1"))
            place(session)
            session.execute(text(TAKE.format(1)))

        assert_run_again_once(site, view, "a statement", LOCK_WAIT_TIMEOUT)
        assert somebody.scalar(text("SELECT n FROM stock WHERE id = 1")) == 2


# -- SQLite -----------------------------------------------------------------------------------------------------------

ON_SQLITE = "CREATE TABLE orders (id INTEGER PRIMARY KEY, attempt INTEGER NOT NULL)"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "orders.sqlite3"


@every_point
@all_sessions
@pytest.mark.parametrize(
    ("theirs", "where"),
    [
        (["BEGIN IMMEDIATE"], "a statement"),
        (["BEGIN", "SELECT count(*) FROM orders"], "COMMIT"),  # a reader, whom only COMMIT has to wait for
    ],
    ids=["writer", "reader"],
)
def test_who_finds_a_file_of_sqlite_really_locked_is_run_again(
    path: Path, kind: str, at: str, theirs: list[str], where: str
) -> None:
    url = f"sqlite:///{path}"
    with (
        serving(kind, url, at, ON_SQLITE, timeout=0) as site,
        closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as somebody,
    ):
        for statement in theirs:
            somebody.execute(statement).fetchall()

        def view(session: Session) -> None:
            if current_exchange().attempt == 2:
                somebody.execute("COMMIT")
            place(session)

        assert_run_again_once(site, view, where, sqlite3.SQLITE_BUSY)
