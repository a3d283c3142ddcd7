"""What is taken down of commits that the middleware does not manage: whose they are, and what counts as one."""

import asyncio
import gc
import itertools
import os
import weakref
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from postresponse import after_response, current_exchange, launch, wsgi
from postresponse.observing import commits
from postresponse.observing.late import tally
from postresponse.unit_of_work.sqlalchemy import SQLAlchemyUnitOfWork
from postresponse.work import TaskSupervisor, scope
from tests.fakes import BODY, START, StrictWSGIServer
from tests.observing.driving import HEAD, READ, SIZED, WRITE, aserve, serve, store
from tests.services import mariadb, postgres

# -- whose it is ------------------------------------------------------------------------------------------------------


def test_the_commit_of_a_unit_of_work_is_its_own(engine: Engine) -> None:
    db = SQLAlchemyUnitOfWork(lambda: Session(engine))

    def app(start_response: Any, server: StrictWSGIServer) -> Any:
        db.session.execute(WRITE, {"customer": None})
        start_response(*HEAD)
        return [b"all"]

    assert serve(app, unit_of_work=db).seen == []

    def by_itself(start_response: Any, server: StrictWSGIServer) -> Any:
        db.session.execute(WRITE, {"customer": None})
        db.session.commit()
        start_response(*HEAD)
        return [b"all"]

    assert serve(by_itself, unit_of_work=db).seen == [(False, True, False)]


def test_a_job_commits_for_itself_also_while_the_response_is_streamed(engine: Engine) -> None:
    async def later() -> None:
        await asyncio.to_thread(store, engine)

    async def app(send: Any) -> None:
        after_response(store, engine)
        await send({"type": START, "status": 200, "headers": []})
        await send({"type": BODY, "body": b"first", "more_body": True})
        await launch(store, engine)
        await launch(later)
        await send({"type": BODY, "body": b"last"})

    assert aserve(app, supervisor=TaskSupervisor()).seen == []
    with engine.connect() as connection:
        assert connection.execute(READ).scalar_one() == 3


def test_an_async_session_is_heard_and_the_function_that_awaits_it_is_named(engine: Engine) -> None:
    async def end_session(session: AsyncSession) -> None:
        await asyncio.sleep(0)
        await session.commit()

    async def app(send: Any) -> None:
        async with AsyncSession(made) as session:
            await session.execute(WRITE, {"customer": None})
            await send({"type": START, "status": 200, "headers": []})
            await end_session(session)
            await send({"type": BODY, "body": b""})

    made = create_async_engine(f"sqlite+aiosqlite:///{engine.url.database}", poolclass=NullPool)
    told = aserve(app)
    assert told.seen == [(True, True, False)]
    (commit,) = told.traces[0].commits
    assert commit.where == f"end_session (test_commits.py:{end_session.__code__.co_firstlineno + 2})"
    assert commit.ended is not None
    assert commit.began < commit.ended


def test_a_commit_behind_the_outcome_and_one_of_a_scope_are_not_the_requests(engine: Engine) -> None:
    def app(start_response: Any, server: StrictWSGIServer) -> Any:
        current_exchange().on_finished(lambda outcome: store(engine))
        with scope("import"):
            store(engine)
        start_response(*HEAD)
        return [b"all"]

    assert serve(app).seen == []
    store(engine)  # of nobody


# -- what is one ------------------------------------------------------------------------------------------------------


def test_what_only_read_has_written_nothing(engine: Engine) -> None:
    def app(start_response: Any, server: StrictWSGIServer) -> Any:
        def body() -> Iterator[bytes]:
            yield b"first"
            with Session(engine) as session:
                session.execute(WRITE, {"customer": None})
                session.rollback()
                with session.begin_nested():
                    session.execute(READ)
                session.commit()
            with engine.begin() as connection:
                connection.exec_driver_sql("BEGIN")
                connection.execute(READ)

        start_response(*HEAD)
        return body()

    told = serve(app)
    assert told.seen == [(True, False, False)] * 2
    assert told.traces[0].verdict == "nothing was committed"
    assert not told.traces[0].is_problem
    assert tally._routes == {}


def test_in_autocommit_each_statement_that_writes_is_a_commit(engine: Engine) -> None:
    def app(start_response: Any, server: StrictWSGIServer) -> Any:
        def body() -> Iterator[bytes]:
            yield b"first"
            with Session(engine.execution_options(isolation_level="AUTOCOMMIT")) as session:
                session.execute(WRITE, {"customer": None})
                session.execute(READ)
                session.execute(WRITE, {"customer": None})
                session.commit()

        start_response(*HEAD)
        return body()

    told = serve(app)
    assert told.seen == [(True, True, False)] * 2 + [(True, False, False)]


def test_on_one_connection_each_transaction_is_told_apart(engine: Engine) -> None:
    def app(start_response: Any, server: StrictWSGIServer) -> Any:
        with engine.connect() as connection:
            for _ in range(2):
                connection.execute(WRITE, {"customer": None})
                connection.commit()
            connection.execute(READ)
            connection.commit()
        start_response(*HEAD)
        return [b"all"]

    told = serve(app)
    assert told.seen == [(False, True, False)] * 2 + [(False, False, False)]
    assert all(commit.ended is not None for commit in told.traces[0].commits)


@pytest.mark.parametrize("is_late", [True, False])
def test_a_commit_that_fails_is_told_as_such(engine: Engine, is_late: bool, quiet: None) -> None:
    def app(start_response: Any, server: StrictWSGIServer) -> Any:
        def body() -> Iterator[bytes]:
            if is_late:
                yield b"first"
            with pytest.raises(IntegrityError):
                store(engine, customer=404)
            yield b"last"

        start_response(*HEAD)
        return body()

    told = serve(app)
    assert told.seen == [(is_late, True, True)]
    (trace,) = told.traces
    (commit,) = trace.commits
    assert isinstance(commit.exception, IntegrityError)
    assert commit.exception.__traceback__ is None
    assert trace.is_problem is is_late
    assert trace.verdict.startswith("a commit failed")
    assert trace.verdict.endswith("AFTER the first byte" if is_late else "before the first byte")


def test_of_many_commits_of_one_request_the_last_is_kept_and_not_all(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commits, "MOST", 5)

    def app(start_response: Any, server: StrictWSGIServer) -> Any:
        def body() -> Iterator[bytes]:
            write(7)
            yield b"first"
            write(7)

        def write(times: int) -> None:
            with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                for _ in range(times):
                    connection.execute(WRITE, {"customer": None})

        start_response(*HEAD)
        return body()

    (trace,) = serve(app).traces
    assert [commit.late for commit in trace.commits] == [False] * 5 + [True] * 5
    assert list(trace.commits) == sorted(trace.commits, key=lambda commit: commit.began)


def test_a_request_that_commits_passes_its_body_as_if_nobody_looked(engine: Engine) -> None:
    def streamed(environ: Any, start_response: Any) -> Any:
        store(engine)
        start_response(*SIZED)
        yield b"first "
        store(engine)
        yield b"last"

    def listed(environ: Any, start_response: Any) -> Any:
        store(engine)
        start_response(*SIZED)
        return [b"first last"]

    for app, late in ((streamed, 1), (listed, 0)):
        tally.begin_anew()
        server = StrictWSGIServer()
        body = wsgi.PostResponseMiddleware(app)(server.environ, server.start_response)
        assert type(iter(body)) is itertools.chain
        assert b"".join(body) == b"first last"
        body.close()  # type: ignore[attr-defined]
        assert [(each.requests, each.late) for each in tally._routes.values()] == [(1, late)]


def test_a_listener_that_fails_harms_no_commit_and_is_logged_once(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def raises(statement: str) -> bool:
        raise ZeroDivisionError

    def app(start_response: Any, server: StrictWSGIServer) -> Any:
        store(engine)
        start_response(*HEAD)
        return [b"all"]

    monkeypatch.setattr("postresponse.observing.sqlalchemy.only_reads", raises)
    monkeypatch.setattr(commits, "_complained", set())
    for _ in range(2):
        assert serve(app).seen == [(False, False, False)]
    assert caplog.messages == [
        "postresponse.observing.sqlalchemy._on_statement() failed; further failures are not logged"
    ]
    with engine.connect() as connection:
        assert connection.execute(READ).scalar_one() == 2


def test_nothing_is_kept_of_a_request_that_is_over(engine: Engine) -> None:
    kept: list[weakref.ref[Any]] = []

    def app(environ: Any, start_response: Any) -> Any:
        kept.append(weakref.ref(current_exchange()))
        store(engine)
        start_response(*HEAD)
        yield b"all"
        store(engine)

    gc.collect()
    gc.disable()  # it goes by itself, and is not left to the collector
    try:
        for _ in range(3):
            StrictWSGIServer().run(wsgi.PostResponseMiddleware(app))
        assert [each() for each in kept] == [None] * 3
    finally:
        gc.enable()


@pytest.mark.service("postgresql")
@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
def test_on_postgresql_what_commits_writes_and_fails_is_told_by_each_driver(driver: str, quiet: None) -> None:
    table = f"observed_{driver}_{os.getpid()}"
    refused = f"CREATE TABLE {table} (customer INTEGER UNIQUE DEFERRABLE INITIALLY DEFERRED)"
    insert = text(f"INSERT INTO {table} VALUES (1)")

    async def app(send: Any) -> None:
        made = create_async_engine(postgres.url().replace("postgresql", f"postgresql+{driver}", 1), poolclass=NullPool)
        async with made.begin() as connection:
            await connection.execute(text(refused))
        await send({"type": START, "status": 200, "headers": []})
        try:
            with suppress(IntegrityError):
                async with AsyncSession(made) as session:
                    await session.execute(insert)
                    await session.execute(insert)
                    await session.commit()
            async with AsyncSession(made) as session:
                await session.execute(text(f"SELECT * FROM {table}"))
                await session.commit()
        finally:
            async with made.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
                await connection.execute(text(f"DROP TABLE {table}"))
        await send({"type": BODY, "body": b""})

    told = aserve(app)
    assert told.seen == [(False, True, False), (True, True, True), (True, False, False), (True, True, False)]
    assert all(commit.ended is not None for commit in told.traces[0].commits)
    assert [commit.where.partition(" ")[0] for commit in told.traces[0].commits] == ["app"] * 4


@pytest.mark.service("mariadb")
def test_a_two_phase_commit_is_one_and_a_statement_that_commits_by_itself_is_another() -> None:
    def app(start_response: Any, server: StrictWSGIServer) -> Any:
        def body() -> Iterator[bytes]:
            yield b"first"
            with Session(made, twophase=True) as session:
                session.execute(text("INSERT INTO orders VALUES (1)"))
                session.commit()
            with Session(made) as session:
                session.execute(text("INSERT INTO orders VALUES (2)"))
                session.execute(text("CREATE TABLE customers (name TEXT)"))
                session.rollback()
                assert session.execute(READ).scalar_one() == 2

        with made.begin() as connection:
            connection.execute(text("CREATE TABLE orders (customer INTEGER)"))
        start_response(*HEAD)
        return body()

    with mariadb.database() as url:
        made = create_engine(url, poolclass=NullPool)
        told = serve(app)
    assert told.seen == [(False, True, False), (False, False, False)] + [(True, True, False)] * 2
    assert all(commit.ended is not None for commit in told.traces[0].commits)
