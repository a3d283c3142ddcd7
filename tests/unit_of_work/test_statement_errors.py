"""A unit of work remembers what a statement failed with, also where a handler or a framework caught it."""

import gc
import pickle
import sqlite3
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import asyncpg
import psycopg
import pymysql
import pytest
from anyio import to_thread
from django.db import DatabaseError, IntegrityError, connections, transaction
from django.http import HttpResponse, StreamingHttpResponse
from sqlalchemy import Engine, create_engine, event, select, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker
from werkzeug.test import create_environ, run_wsgi_app

from postresponse import CommitPolicy, Retry, asgi, current_exchange, wsgi
from postresponse.core.exchange import Failure
from postresponse.core.lifecycle import Outcome
from postresponse.core.policy import is_transient
from postresponse.exceptions import CommitRefused
from postresponse.unit_of_work.sqlalchemy import AsyncSQLAlchemyUnitOfWork, SQLAlchemyUnitOfWork
from postresponse.unit_of_work.statements import detached, only_reads, worse_of
from tests.fakes import StrictASGIServer
from tests.services import mariadb, postgres
from tests.unit_of_work.django_project.databases import Database, PostgreSQL
from tests.unit_of_work.django_project.driving import KIND, Site, cleared, orders

ON_POSTGRESQL = pytest.mark.service("postgresql")
ON_ASYNCIO = pytest.mark.parametrize("anyio_backend", ["asyncio"])

WAITING = text(  # for locks in this database, of several on its server
    "SELECT count(*) FROM information_schema.innodb_lock_waits "
    "JOIN information_schema.innodb_trx ON trx_id = requesting_trx_id "
    "JOIN information_schema.processlist ON id = trx_mysql_thread_id WHERE db = database()"
)

RETRIED = CommitPolicy(retry=Retry(backoff=0.001))

READ = text("SELECT n FROM counter WHERE id = 1")
ADD = text("UPDATE counter SET n = n + 1 WHERE id = 1")
BREAK = text("SELECT n FROM nowhere")


class Base(DeclarativeBase):
    pass


class Counter(Base):
    __tablename__ = "counter"
    id: Mapped[int] = mapped_column(primary_key=True)
    n: Mapped[int]


@pytest.fixture
def url() -> Iterator[str]:
    """PostgreSQL with one counter, at a level on which two that add to it conflict."""
    with postgres.schema() as name:
        with postgres.connect(name) as connection:
            connection.execute("CREATE TABLE counter (id integer PRIMARY KEY, n integer NOT NULL)")
            connection.execute("INSERT INTO counter VALUES (1, 0)")
        yield postgres.url() + f"?options=-csearch_path%3D{name}"


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"), isolation_level="REPEATABLE READ")
    yield engine
    engine.dispose()


@pytest.fixture
async def async_engine(engine: Engine) -> AsyncIterator[AsyncEngine]:
    path = str(engine.url.query["options"]).removeprefix("-csearch_path=")
    async_engine = create_async_engine(
        engine.url.set(drivername="postgresql+asyncpg", query={}),
        connect_args={"server_settings": {"search_path": path}},
        isolation_level="REPEATABLE READ",
    )
    yield async_engine
    await async_engine.dispose()


def interfere(engine: Engine) -> None:
    """Add to the counter from outside, and commit: who read it before and adds now is refused with 40001."""
    with engine.begin() as connection:
        connection.execute(ADD)


class Requests:
    """One application around a view, with what its last request left."""

    def __init__(self, db: Any, commit: Any = "head") -> None:
        self.db = db
        self.failures: list[Failure] = []
        self.errors: list[BaseException | None] = []
        self.unit: Any = None
        self.options = {
            "unit_of_work": db,
            "commit": commit,
            "on_commit_failed": self.failures.append,
            "on_finished": self._finished,
        }

    def _finished(self, outcome: Outcome) -> None:
        self.errors.append(self.unit.statement_error)
        self.outcome = outcome

    def get(self, view: Callable[[], Any], status: str = "201 Created") -> int:
        def app(environ: Any, start_response: Any) -> Any:
            self.unit = current_exchange().units[self.db]
            body = view()
            start_response(status, [("Content-Type", "text/plain")])
            return body or [b"done"]

        wrapped = wsgi.PostResponseMiddleware(app, **self.options)
        _, answered, _ = run_wsgi_app(wrapped, create_environ("/"), buffered=True)
        return int(answered[:3])

    async def aget(self, view: Callable[[], Any], status: int = 201) -> int | None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            self.unit = current_exchange().units[self.db]
            await view()
            await send({"type": "http.response.start", "status": status, "headers": []})
            await send({"type": "http.response.body", "body": b"done"})

        server = await StrictASGIServer("POST").run(asgi.PostResponseMiddleware(app, **self.options))
        return server.status

    @property
    def error(self) -> BaseException | None:
        """What the unit said once the outcome was told, when rollback and close had been called."""
        return self.errors[-1]


def requests(engine: Engine) -> Requests:
    return Requests(SQLAlchemyUnitOfWork(sessionmaker(engine)))


# -- SQLAlchemy -------------------------------------------------------------------------------------------------------


@ON_POSTGRESQL
def test_a_conflict_that_a_handler_swallowed_is_the_transient_cause_of_the_refusal(engine: Engine) -> None:
    site = requests(engine)

    def view() -> None:
        site.db.session.execute(READ)
        interfere(engine)
        with pytest.raises(DBAPIError):
            site.db.session.execute(ADD)

    assert site.get(view) == 503
    assert isinstance(site.failures[-1].exception, CommitRefused)
    assert site.failures[-1].transient
    cause = site.failures[-1].exception.__cause__
    assert isinstance(cause, OperationalError)
    assert isinstance(cause.orig, psycopg.errors.SerializationFailure)
    assert "UPDATE counter" in str(cause)
    assert is_transient(site.error)


@ON_POSTGRESQL
def test_a_conflict_that_a_framework_made_a_500_of_is_told_after_the_rollback_and_the_close(engine: Engine) -> None:
    site = requests(engine)

    def view() -> None:
        site.db.session.execute(READ)
        interfere(engine)
        with pytest.raises(DBAPIError):
            site.db.session.execute(ADD)

    assert site.get(view, "500 Internal Server Error") == 500
    assert site.outcome.unit_of_work == "rolled_back"
    assert is_transient(site.error)


@ON_POSTGRESQL
@ON_ASYNCIO
@pytest.mark.anyio
async def test_an_async_session_remembers_too(engine: Engine, async_engine: AsyncEngine) -> None:
    site = Requests(AsyncSQLAlchemyUnitOfWork(async_sessionmaker(async_engine)))

    async def view() -> None:
        await site.db.session.execute(READ)
        await to_thread.run_sync(interfere, engine)
        with pytest.raises(DBAPIError):
            await site.db.session.execute(ADD)

    assert await site.aget(view) == 503
    assert is_transient(site.error)
    assert await site.aget(view, status=500) == 500
    assert is_transient(site.error)


@ON_POSTGRESQL
@pytest.mark.anyio
async def test_a_statement_on_a_thread_is_seen_as_well(engine: Engine) -> None:
    site = requests(engine)

    def work() -> None:
        site.db.session.execute(READ)
        interfere(engine)
        with pytest.raises(DBAPIError):
            site.db.session.execute(ADD)

    async def view() -> None:
        await to_thread.run_sync(work)

    assert await site.aget(view) == 503
    assert is_transient(site.error)


@ON_POSTGRESQL
def test_a_conflict_at_a_flush_that_a_query_caused_is_seen(engine: Engine) -> None:
    site = requests(engine)

    def view() -> None:
        counter = site.db.session.get(Counter, 1)
        interfere(engine)
        counter.n = 7
        with pytest.raises(DBAPIError):
            site.db.session.scalars(select(Counter.n)).all()

    site.get(view, "500 Internal Server Error")
    assert is_transient(site.error)


@ON_POSTGRESQL
def test_what_fails_behind_it_does_not_hide_the_reason(engine: Engine) -> None:
    site = requests(engine)

    def conflicts() -> None:
        site.db.session.execute(READ)
        interfere(engine)
        for statement in (ADD, READ, BREAK):
            with pytest.raises(DBAPIError):
                site.db.session.execute(statement)

    def breaks() -> None:
        for statement in (BREAK, READ):
            with pytest.raises(DBAPIError):
                site.db.session.execute(statement)

    site.get(conflicts)
    assert is_transient(site.error)
    site.get(breaks)
    assert isinstance(site.error, DBAPIError)
    assert isinstance(site.error.orig, psycopg.errors.UndefinedTable)  # and not that the transaction is given up


@ON_POSTGRESQL
def test_of_several_reasons_the_transient_one_is_told_whatever_their_order(engine: Engine) -> None:
    site = requests(engine)

    def view() -> None:
        for statement in (BREAK, ADD, BREAK):
            site.db.session.execute(READ)
            if statement is ADD:
                interfere(engine)
            with pytest.raises(DBAPIError), site.db.session.begin_nested():
                site.db.session.execute(statement)

    assert site.get(view) == 201
    assert is_transient(site.error)


@ON_POSTGRESQL
def test_an_error_handled_in_a_savepoint_fails_no_commit(engine: Engine) -> None:
    site = requests(engine)

    def view() -> None:
        site.db.session.execute(ADD)
        with pytest.raises(DBAPIError), site.db.session.begin_nested():
            site.db.session.execute(text("INSERT INTO counter VALUES (1, 1)"))

    assert site.get(view) == 201
    assert site.outcome.unit_of_work == "committed"
    assert isinstance(site.error, DBAPIError)
    assert not is_transient(site.error)


@ON_POSTGRESQL
def test_a_transaction_that_the_handler_begins_anew_starts_with_no_error(engine: Engine) -> None:
    site = requests(engine)
    seen: list[bool] = []

    def view() -> None:
        site.db.session.execute(READ)
        interfere(engine)
        with pytest.raises(DBAPIError):
            site.db.session.execute(ADD)
        site.db.session.rollback()
        seen.append(is_transient(site.unit.statement_error))
        site.db.session.execute(ADD)
        seen.append(is_transient(site.unit.statement_error))

    assert site.get(view) == 201
    assert seen == [True, False]
    assert site.error is None


@ON_POSTGRESQL
def test_an_error_of_somebody_who_has_the_connection_afterwards_is_not_ours(url: str) -> None:
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"), pool_size=1, max_overflow=0)
    site = requests(engine)

    def view() -> None:
        site.db.session.execute(READ)
        site.db.session.rollback()
        with engine.connect() as other, pytest.raises(DBAPIError):
            other.execute(BREAK)

    assert site.get(view, "500 Internal Server Error") == 500
    assert site.error is None
    engine.dispose()


@ON_POSTGRESQL
def test_late_use_starts_with_no_error(engine: Engine) -> None:
    site = requests(engine)
    seen: list[BaseException | None] = []

    def view() -> Iterator[bytes]:
        with pytest.raises(DBAPIError):
            site.db.session.execute(BREAK)

        def body() -> Iterator[bytes]:
            yield b"first"
            seen.append(site.unit.statement_error)
            site.db.session.execute(READ)
            seen.append(site.unit.statement_error)
            yield b"second"

        return body()

    assert site.get(view, "404 Not Found") == 404
    assert isinstance(seen[0], DBAPIError)
    assert seen[1] is None


@ON_POSTGRESQL
def test_what_the_handler_committed_itself_is_told_for_it_may_not_run_again(engine: Engine) -> None:
    site = requests(engine)

    def own() -> None:
        site.db.session.execute(ADD)
        site.db.session.commit()
        with pytest.raises(DBAPIError):
            site.db.session.execute(BREAK)

    def none() -> None:
        site.db.session.execute(ADD)
        site.db.session.rollback()

    def refused() -> None:
        site.db.session.execute(text("ALTER TABLE counter ADD CHECK (n < 0) NOT VALID"))
        with pytest.raises(DBAPIError):
            site.db.session.execute(ADD)

    for view, committed in ((own, True), (none, False), (refused, False)):
        site.get(view, "500 Internal Server Error")
        assert site.unit.committed is committed
    site.get(refused)
    assert (site.outcome.unit_of_work, site.unit.committed) == ("failed", False)


@ON_POSTGRESQL
def test_a_refusal_by_the_handlers_own_commit_is_remembered_and_committed_nothing(engine: Engine) -> None:
    site = requests(engine.execution_options(isolation_level="SERIALIZABLE"))

    def view() -> None:
        site.db.session.execute(READ)
        site.db.session.execute(text("INSERT INTO counter VALUES (2, 0)"))
        with engine.connect().execution_options(isolation_level="SERIALIZABLE") as other:
            other.execute(text("SELECT n FROM counter WHERE id = 2"))
            other.execute(ADD)
            other.commit()
        with pytest.raises(DBAPIError):
            site.db.session.commit()

    site.get(view, "500 Internal Server Error")
    assert is_transient(site.error)
    assert site.unit.committed is False


@ON_POSTGRESQL
def test_a_request_is_run_again_for_a_conflict_that_only_its_unit_of_work_told_of(engine: Engine) -> None:
    site = requests(engine)
    site.options["commit"] = RETRIED

    def view() -> None:
        site.db.session.execute(READ)
        if current_exchange().attempt == 1:
            interfere(engine)
            with pytest.raises(DBAPIError):
                site.db.session.execute(ADD)
        site.db.session.execute(READ if current_exchange().attempt == 1 else ADD)

    def app(environ: Any, start_response: Any) -> list[bytes]:
        site.unit, status = current_exchange().units[site.db], "201 Created"
        try:
            view()
        except DBAPIError:
            status = "500 Internal Server Error"
        start_response(status, [])
        return [b"done"]

    _, answered, _ = run_wsgi_app(wsgi.PostResponseMiddleware(app, **site.options), create_environ("/"), buffered=True)
    assert answered == "201 Created"
    assert (site.outcome.unit_of_work, site.outcome.attempt) == ("committed", 2)
    with engine.connect() as connection:
        assert connection.scalar(READ) == 2


@ON_POSTGRESQL
def test_a_request_that_committed_something_itself_is_not_run_again(engine: Engine) -> None:
    site = requests(engine)
    site.options["commit"] = RETRIED

    def view() -> None:
        site.db.session.execute(ADD)
        site.db.session.commit()
        site.db.session.execute(READ)
        interfere(engine)
        with pytest.raises(DBAPIError):
            site.db.session.execute(ADD)

    assert site.get(view) == 503
    assert (site.outcome.unit_of_work, site.outcome.attempt) == ("failed", 1)
    with engine.connect() as connection:
        assert connection.scalar(READ) == 2


@pytest.mark.service("mariadb")
def test_a_deadlock_behind_a_lock_that_was_waited_for_in_vain_refuses_the_commit() -> None:
    """Both are transient, and only the second has rolled back what came before it."""
    with mariadb.database() as url:
        engine = create_engine(url)
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE stock (id INTEGER PRIMARY KEY, n INTEGER) ENGINE=InnoDB"))
            connection.execute(text("INSERT INTO stock VALUES (1, 0), (2, 0), (3, 0), (4, 0), (5, 0)"))
        site = requests(engine)

        def take_all_but_the_first() -> None:
            with engine.begin() as connection:
                connection.execute(text("UPDATE stock SET n = 2 WHERE id > 1"))
                connection.execute(text("UPDATE stock SET n = 2 WHERE id = 1"))

        other_waits = threading.Thread(target=take_all_but_the_first)

        def view() -> None:
            session = site.db.session
            session.execute(text("SET innodb_lock_wait_timeout = 1"))
            session.execute(text("UPDATE stock SET n = 1 WHERE id = 1"))
            with engine.connect() as holding:
                holding.execute(text("UPDATE stock SET n = 3 WHERE id = 5"))
                with pytest.raises(DBAPIError, match="1205"):
                    session.execute(text("UPDATE stock SET n = 1 WHERE id = 5"))
            other_waits.start()
            with engine.connect() as watching:
                while not watching.scalar(WAITING):
                    watching.rollback()
                    time.sleep(0.2)  # a view that is read more often than every 0.1 s never changes
            with pytest.raises(DBAPIError, match="1213"):
                session.execute(text("UPDATE stock SET n = 1 WHERE id = 2"))

        assert site.get(view) == 503
        assert site.outcome.unit_of_work == "failed"
        other_waits.join()
        engine.dispose()


@ON_POSTGRESQL
def test_what_is_remembered_holds_neither_the_session_nor_the_exchange(engine: Engine) -> None:
    """The error itself does: its traceback holds the view, and the view whatever it likes."""
    site = requests(engine)
    alive: list[weakref.ref[Any]] = []

    def view() -> None:
        exchange, session = current_exchange(), site.db.session
        alive.extend(weakref.ref(found) for found in (exchange, session))
        with pytest.raises(DBAPIError):
            session.execute(BREAK)

    site.get(view, "500 Internal Server Error")
    site.unit = None
    gc.collect()  # SQLAlchemy's own frames and errors hold each other
    assert isinstance(site.error, DBAPIError)
    assert [found() for found in alive] == [None, None]


# -- Django -----------------------------------------------------------------------------------------------------------


class Watch:
    """A view's unit of work and connection, kept to be looked at when the request is over."""

    def __init__(self, alias: str) -> None:
        self.alias = alias
        self.unit: Any = None
        self.connection: Any = None

    def __call__(self) -> None:
        (self.unit,) = current_exchange().units.values()
        self.connection = connections[self.alias]
        assert self.connection.execute_wrappers == [self.unit._execute]

    def ended(self) -> None:
        """See that nothing of the request is left on the connection."""
        assert self.connection.execute_wrappers == []


def conflict(database: Database) -> None:
    """Provoke a serialization failure in the view's transaction, in a way that lets it through as Django does."""
    assert isinstance(database, PostgreSQL)
    with connections[database.alias].cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        cursor.execute("SELECT count(*) FROM orders")
        with postgres.connect(database.schema) as outside:
            outside.execute("UPDATE orders SET customer_id = NULL")
        cursor.execute("UPDATE orders SET customer_id = NULL")


@pytest.fixture
def postgresql_orders(postgresql: PostgreSQL) -> PostgreSQL:
    cleared(postgresql)
    orders("postgresql").create(id=1)
    return postgresql


@ON_POSTGRESQL
@KIND
def test_django_a_swallowed_conflict_is_the_transient_cause_of_the_refusal(
    postgresql_orders: PostgreSQL, kind: str
) -> None:
    failures: list[Failure] = []
    watch = Watch("postgresql")

    def view(request: Any) -> HttpResponse:
        watch()
        with pytest.raises(DatabaseError):
            conflict(postgresql_orders)
        with pytest.raises(DatabaseError):
            orders("postgresql").count()
        return HttpResponse(status=201)

    answer = Site(view, kind, "postgresql", options={"on_commit_failed": failures.append}).get()
    assert answer.unit == (503, "failed")
    assert failures[0].transient
    cause = failures[0].exception.__cause__
    assert cause is not None
    assert isinstance(cause.__cause__, psycopg.errors.SerializationFailure)
    assert is_transient(watch.unit.statement_error)
    watch.ended()


@ON_POSTGRESQL
@KIND
def test_django_a_conflict_that_became_a_500_is_told_after_the_rollback_and_the_close(
    postgresql_orders: PostgreSQL, kind: str
) -> None:
    watch = Watch("postgresql")

    def view(request: Any) -> HttpResponse:
        watch()
        conflict(postgresql_orders)
        raise AssertionError("there was no conflict")

    site = Site(view, kind, "postgresql")
    assert site.get().unit == (500, "rolled_back")
    assert isinstance(watch.unit.statement_error, DatabaseError)
    assert is_transient(watch.unit.statement_error)
    watch.ended()


@KIND
def test_django_a_statement_that_was_not_sent_does_not_hide_the_reason(database: Database, kind: str) -> None:
    """Behind an error that was caught inside of `atomic()` Django refuses all others."""
    watch = Watch(database.alias)

    def view(request: Any) -> HttpResponse:
        watch()
        for _ in range(3):
            with suppress(DatabaseError):
                orders(database.alias).create(id=1)
        return HttpResponse(status=201)

    assert Site(view, kind, database.alias).get().unit == (500, "failed")
    assert isinstance(watch.unit.statement_error, IntegrityError)


@ON_POSTGRESQL
@KIND
def test_django_a_conflict_that_became_a_500_runs_the_request_again(postgresql_orders: PostgreSQL, kind: str) -> None:
    def view(request: Any) -> HttpResponse:
        if current_exchange().attempt == 1:
            conflict(postgresql_orders)
        orders("postgresql").create(id=2)
        return HttpResponse(status=201)

    answer = Site(view, kind, "postgresql", RETRIED).get()
    assert answer.unit == (201, "committed")
    assert answer.outcome is not None
    assert answer.outcome.attempt == 2
    assert len(postgresql_orders.orders()) == 2


@KIND
@pytest.mark.parametrize("way", ["commit", "roll back", "refused", "closed", "commit fails", "inside a savepoint"])
def test_django_nothing_listens_any_longer_whatever_became_of_the_request(
    database: Database, kind: str, way: str
) -> None:
    watch = Watch(database.alias)

    def view(request: Any) -> HttpResponse:
        watch()
        orders(database.alias).create(id=1, customer_id=404 if way == "commit fails" else None)
        if way == "refused":
            transaction.set_rollback(True, using=database.alias)
        elif way == "closed":
            connections[database.alias].close()
        elif way == "inside a savepoint":
            with pytest.raises(IntegrityError), transaction.atomic(database.alias):
                orders(database.alias).create(id=1)
        return HttpResponse(status=404 if way == "roll back" else 201)

    answer = Site(view, kind, database.alias).get()
    expected = {"commit": (201, "committed"), "inside a savepoint": (201, "committed")} | {
        "roll back": (404, "rolled_back")
    }
    assert answer.unit == expected.get(way, (500, "failed"))
    watch.ended()
    if way == "inside a savepoint":
        assert isinstance(watch.unit.statement_error, IntegrityError)
    elif way != "commit fails":
        assert watch.unit.statement_error is None


def test_django_a_wrapper_of_the_view_that_outlives_the_commit_takes_off_itself(default: Database) -> None:
    watch = Watch("default")
    seen: list[str] = []

    def spy(execute: Any, sql: str, *others: Any) -> Any:
        seen.append(sql)
        return execute(sql, *others)

    def view(request: Any) -> Any:
        watch()
        orders("default").create()

        def body() -> Iterator[bytes]:
            with connections["default"].execute_wrapper(spy):
                yield b"first"
                orders("default").count()
                yield b"second"

        return StreamingHttpResponse(body())

    assert Site(view, "wsgi").get().unit == (200, "committed")
    assert len(seen) == 1
    watch.ended()


# -- the parts --------------------------------------------------------------------------------------------------------


def driver_errors() -> Iterator[BaseException]:
    """Errors of every driver at hand, as they are raised."""
    try:
        sqlite3.connect(":memory:").execute("SELECT broken")
    except sqlite3.Error as error:
        yield error
    yield asyncpg.exceptions.SerializationError("could not serialize access")
    yield psycopg.errors.DeadlockDetected("deadlock detected")
    yield pymysql.err.OperationalError(1213, "Deadlock found")


class Particular(Exception):
    """One that nobody can make without its keyword."""

    def __init__(self, *, code: str) -> None:
        super().__init__("particular")
        self.sqlstate = code


class Answered(Exception):
    """An application's own, made from what it does not keep in its `args`."""

    def __init__(self, response: Any) -> None:
        super().__init__(f"status {response.status}")
        self.response = response


class Missing(FileNotFoundError):
    """One whose base has a way of its own to be copied, which does not fit."""

    def __init__(self, response: Any) -> None:
        super().__init__(2, f"status {response.status}")


class Refusing(Exception):
    """One that cannot be copied."""

    def __reduce__(self) -> Any:
        raise LookupError("not this one")

    @property
    def orig(self) -> Exception:
        return ValueError("of a guard")


NOT_FOUND = SimpleNamespace(status=404)


def test_a_copy_is_as_good_as_the_error_and_holds_no_traceback() -> None:
    own = (Particular(code="40001"), Answered(NOT_FOUND), Missing(NOT_FOUND), Refusing("no"))
    for error in (*driver_errors(), *own):
        wrapped = OperationalError("SELECT 1", {}, error)
        wrapped.__cause__ = error
        for original in (error, wrapped):
            with pytest.raises(type(original)) as raised:
                raise original
            assert raised.value.__traceback__ is not None
            copied: BaseException | None = detached(raised.value)
            assert type(copied) is type(original)
            assert str(copied) == str(original)
            assert is_transient(copied) is is_transient(original)
            while copied is not None:
                assert copied.__traceback__ is None
                assert copied is not error
                assert getattr(copied, "orig", None) is not error
                copied = copied.__cause__


def test_a_copy_is_not_made_by_the_application() -> None:
    made = []

    class Counted(Exception):
        def __init__(self, reason: str) -> None:
            super().__init__(reason)
            made.append(reason)

    assert isinstance(detached(Counted("once")), Counted)
    assert made == ["once"]


def test_errors_that_cause_each_other_are_copied_once() -> None:
    first, second = LookupError("first"), LookupError("second")
    first.__cause__, second.__cause__ = second, first
    copied = detached(first)
    assert str(copied.__cause__) == "second"
    assert copied.__cause__ is not None
    assert copied.__cause__.__cause__ is None


def test_what_the_application_raises_out_of_a_statement_reaches_it_as_it_is() -> None:
    engine = create_engine("sqlite://")
    site = requests(engine)

    @event.listens_for(engine, "do_execute")
    def guard(cursor: Any, statement: str, *others: Any) -> None:
        if statement.startswith("DELETE"):
            raise Answered(NOT_FOUND)

    def view() -> None:
        with pytest.raises(Answered, match="404"):
            site.db.session.execute(text("DELETE FROM counter"))

    assert site.get(view) == 201
    assert isinstance(site.error, Answered)


@ON_POSTGRESQL
def test_a_copy_of_what_psycopg_raised_still_says_why() -> None:
    with postgres.connect("public") as connection, pytest.raises(psycopg.Error) as raised:
        connection.execute("SELECT * FROM nowhere")
    copied = detached(raised.value)
    assert isinstance(copied, psycopg.Error)
    assert (copied.sqlstate, copied.diag.sqlstate) == ("42P01", "42P01")
    assert pickle.loads(pickle.dumps(copied)).args == raised.value.args


def test_which_of_two_errors_is_remembered() -> None:
    conflict, broken = psycopg.errors.SerializationFailure("a"), psycopg.errors.UndefinedTable("b")
    given_up = psycopg.errors.InFailedSqlTransaction("c")
    for earlier, later, kept in (
        (None, broken, broken),
        (None, given_up, given_up),
        (broken, conflict, conflict),
        (conflict, broken, conflict),
        (broken, given_up, broken),
        (psycopg.errors.UniqueViolation("d"), broken, broken),
    ):
        assert str(worse_of(earlier, later)) == str(kept)


@pytest.mark.parametrize(
    ("statement", "reads"),
    [
        ("SELECT 1", True),
        ("  (select id from orders) union (select 2)", True),
        ("SHOW search_path", True),
        ("VALUES (1)", True),
        ("WITH a AS (SELECT 1) SELECT * FROM a", True),
        ("WITH a AS (\nINSERT INTO orders VALUES (1) RETURNING id)\nSELECT * FROM a", False),
        ("EXPLAIN SELECT 1", True),
        ("EXPLAIN ANALYZE DELETE FROM orders", False),
        ("INSERT INTO orders VALUES (1)", False),
        ("CALL transfer(1, 2)", False),
        ("BEGIN", True),
        ("begin immediate transaction;", True),
        ("BEGIN INSERT INTO orders VALUES (1); END;", False),
        ("SAVEPOINT a", True),
        ("RELEASE SAVEPOINT a", True),
        ("ROLLBACK TO SAVEPOINT a", True),
        ("COMMIT", False),
        ("selection", False),
        ("/* a comment */ SELECT 1", False),
        ("", False),
    ],
)
def test_what_only_reads_by_its_look(statement: str, reads: bool) -> None:
    assert only_reads(statement) is reads
