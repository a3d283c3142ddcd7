"""Listeners of an application's own on the events that the unit of work listens to: what they raise is heard of."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, ExceptionContext, create_engine, event, text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.orm import sessionmaker
from werkzeug.test import create_environ, run_wsgi_app

from postresponse import asgi, wsgi
from postresponse.core.lifecycle import Outcome
from postresponse.exceptions import CommitInDoubt
from postresponse.unit_of_work import in_doubt
from postresponse.unit_of_work.sqlalchemy import AsyncSQLAlchemyUnitOfWork, SQLAlchemyUnitOfWork
from tests.fakes import StrictASGIServer
from tests.services import postgres

ADD = text("INSERT INTO orders VALUES ('tea')")
COUNT = text("SELECT count(*) FROM orders")
TABLE = text("CREATE TABLE orders (item varchar(9))")


class Veto(Exception):
    """An application's own."""


def veto(*args: object) -> None:
    raise Veto("an order without positions")


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = create_engine(f"sqlite:///{tmp_path / 'orders.sqlite3'}")
    with engine.begin() as connection:
        connection.execute(TABLE)
    yield engine
    engine.dispose()


@pytest.fixture
async def async_engine(engine: Engine) -> AsyncIterator[AsyncEngine]:
    made = create_async_engine(engine.url.set(drivername="sqlite+aiosqlite"))
    yield made
    await made.dispose()


def rows(engine: Engine) -> int:
    with create_engine(engine.url).connect() as connection:
        return int(connection.scalar(COUNT) or 0)


@pytest.mark.parametrize("where", ["engine, early", "engine, late", "connection"])
def test_a_listener_that_refuses_the_commit_of_the_engine_fails_it(engine: Engine, where: str) -> None:
    if where == "engine, early":
        event.listen(engine, "commit", veto)
    db = SQLAlchemyUnitOfWork(sessionmaker(engine))
    outcomes: list[Outcome] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        db.session.execute(ADD)
        if where == "engine, late":
            event.listen(engine, "commit", veto)
        elif where == "connection":
            event.listen(db.session.connection(), "commit", veto)
        start_response("201 Created", [])
        return [b"done"]

    wrapped = wsgi.PostResponseMiddleware(app, unit_of_work=db, on_finished=outcomes.append)
    _, status, _ = run_wsgi_app(wrapped, create_environ("/"), buffered=True)
    assert (status[:3], outcomes[-1].unit_of_work) == ("500", "failed")
    assert isinstance(outcomes[-1].exception, Veto)
    assert rows(engine) == 0


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_of_an_async_engine_as_well(engine: Engine, async_engine: AsyncEngine) -> None:
    db = AsyncSQLAlchemyUnitOfWork(async_sessionmaker(async_engine))
    outcomes: list[Outcome] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await db.session.execute(ADD)
        event.listen(async_engine.sync_engine, "commit", veto)
        await send({"type": "http.response.start", "status": 201, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})

    server = await StrictASGIServer("POST").run(
        asgi.PostResponseMiddleware(app, unit_of_work=db, on_finished=outcomes.append)
    )
    assert (server.status, outcomes[-1].unit_of_work) == (500, "failed")
    assert rows(engine) == 0


def translate(context: ExceptionContext) -> None:
    raise Veto("the database says no")


@pytest.mark.service("postgresql")
def test_behind_a_listener_that_makes_other_errors_of_them_a_swallowed_one_refuses_the_commit() -> None:
    with postgres.schema() as schema:
        url = postgres.url().replace("postgresql:", "postgresql+psycopg:")
        engine = create_engine(f"{url}?options=-csearch_path%3D{schema}")
        with engine.begin() as connection:
            connection.execute(TABLE)
        event.listen(engine, "handle_error", translate)
        db = SQLAlchemyUnitOfWork(sessionmaker(engine))

        def app(environ: Any, start_response: Any) -> list[bytes]:
            db.session.execute(ADD)
            db.session.connection().info[in_doubt._ABLE] = False  # as of a server before 13: no query before COMMIT
            with pytest.raises(Veto):
                db.session.execute(text("SELECT broken"))
            start_response("201 Created", [])
            return [b"done"]

        _, status, _ = run_wsgi_app(wsgi.PostResponseMiddleware(app, unit_of_work=db), create_environ("/"))
        assert status[:3] == "500"
        engine.dispose()


@pytest.mark.parametrize("lost", [False, True])
def test_behind_a_listener_that_makes_other_errors_of_them_an_answer_is_told_from_none(
    tmp_path: Path, lost: bool
) -> None:
    """A constraint that is deferred refuses the COMMIT; or no answer of SQLite's is what came of it."""
    engine = create_engine(f"sqlite:///{tmp_path / 'deferred.sqlite3'}")
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE teas (item varchar(9) PRIMARY KEY)"))
        connection.execute(text("CREATE TABLE lines (item varchar(9) REFERENCES teas DEFERRABLE INITIALLY DEFERRED)"))
    event.listen(engine, "handle_error", translate)
    db = SQLAlchemyUnitOfWork(sessionmaker(engine))
    outcomes: list[Outcome] = []

    def lose(connection: Any) -> None:
        connection.connection.driver_connection.close()  # without a code of SQLite's

    def app(environ: Any, start_response: Any) -> list[bytes]:
        db.session.execute(text("PRAGMA foreign_keys = ON"))
        db.session.execute(text("INSERT INTO lines VALUES ('tea')" if not lost else "INSERT INTO lines VALUES (NULL)"))
        if lost:
            event.listen(engine, "commit", lose)
        start_response("201 Created", [])
        return [b"done"]

    wrapped = wsgi.PostResponseMiddleware(app, unit_of_work=db, on_finished=outcomes.append)
    _, status, _ = run_wsgi_app(wrapped, create_environ("/"), buffered=True)
    expected = ("503", "unknown", CommitInDoubt) if lost else ("500", "failed", Veto)
    assert (status[:3], outcomes[-1].unit_of_work, type(outcomes[-1].exception)) == expected
    engine.dispose()


def test_what_a_session_raises_behind_its_commit_leaves_the_commit_as_it_is(engine: Engine) -> None:
    db = SQLAlchemyUnitOfWork(sessionmaker(engine))
    outcomes: list[Outcome] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        db.session.execute(ADD)
        event.listen(db.session, "after_commit", veto)
        start_response("201 Created", [])
        return [b"done"]

    wrapped = wsgi.PostResponseMiddleware(app, unit_of_work=db, on_finished=outcomes.append)
    _, status, _ = run_wsgi_app(wrapped, create_environ("/"), buffered=True)
    assert (status[:3], outcomes[-1].unit_of_work) == ("201", "committed")
    assert rows(engine) == 1
