"""SQLAlchemy sessions as units of work, on databases whose COMMIT really fails."""

import gc
import logging
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event, insert, make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, scoped_session, sessionmaker
from werkzeug.test import create_environ, run_wsgi_app

from postresponse import asgi, current_exchange, wsgi
from postresponse.core.lifecycle import Outcome, UnitState
from postresponse.exceptions import ConfigurationError, NoExchange, WrongApplication
from postresponse.unit_of_work.sqlalchemy import AsyncSQLAlchemyUnitOfWork, SQLAlchemyUnitOfWork
from postresponse.unit_of_work.sqlalchemy_session import Use
from tests.fakes import StrictASGIServer
from tests.services import mariadb, postgres
from tests.services.blackhole import Blackhole

WAITING = text(  # for locks in this database, of several on its server
    "SELECT count(*) FROM information_schema.innodb_lock_waits "
    "JOIN information_schema.innodb_trx ON trx_id = requesting_trx_id "
    "JOIN information_schema.processlist ON id = trx_mysql_thread_id WHERE db = database()"
)

SCHEMA = """
CREATE TABLE customer (id INTEGER PRIMARY KEY);
CREATE TABLE orders (
    id INTEGER PRIMARY KEY,
    customer INTEGER REFERENCES customer (id) DEFERRABLE INITIALLY DEFERRED
);
"""


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[int | None]


@contextmanager
def disposed(engine: Engine) -> Iterator[Engine]:
    yield engine
    engine.dispose()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.service("postgresql"))])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database with the two tables; its driver is left out."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'shop.sqlite3'}"
        return
    with postgres.schema() as name:
        yield postgres.url() + f"?options=-csearch_path%3D{name}"


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    with disposed(create_engine(url.replace("postgresql:", "postgresql+psycopg:"))) as engine:
        if engine.dialect.name == "sqlite":
            event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA foreign_keys=ON"))
        with engine.begin() as connection:
            for statement in SCHEMA.strip().split(";\n"):
                connection.execute(text(statement))
        yield engine


@pytest.fixture
async def async_engine(engine: Engine) -> AsyncIterator[AsyncEngine]:
    """The same database, through its async driver."""
    if engine.dialect.name == "sqlite":
        async_engine = create_async_engine(f"sqlite+aiosqlite:///{engine.url.database}")
        event.listen(async_engine.sync_engine, "connect", _foreign_keys)
    else:
        path = str(engine.url.query["options"]).removeprefix("-csearch_path=")
        async_engine = create_async_engine(
            engine.url.set(drivername="postgresql+asyncpg", query={}),
            connect_args={"server_settings": {"search_path": path}},
        )
    yield async_engine
    await async_engine.dispose()


def _foreign_keys(connection: Any, _: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def orders(engine: Engine) -> list[int]:
    with engine.connect() as connection:
        return list(connection.scalars(text("SELECT id FROM orders ORDER BY id")))


def checked_out(engine: Any) -> int:
    return int(engine.pool.checkedout())


class WSGI:
    """One application around a view, and the outcome of its last request."""

    def __init__(self, engine: Engine, commit: Any = "head", **options: Any) -> None:
        self.db = SQLAlchemyUnitOfWork(sessionmaker(engine))
        self.outcomes: list[Outcome] = []
        self.commit, self.options = commit, options

    def get(self, view: Callable[[], Iterable[bytes]], status: str = "201 Created") -> str:
        def app(environ: Any, start_response: Any) -> Iterable[bytes]:
            body = view()
            start_response(status, [("Content-Type", "text/plain"), ("Set-Cookie", "a=b")])
            return body

        wrapped = wsgi.PostResponseMiddleware(
            app, unit_of_work=self.db, commit=self.commit, on_finished=self.outcomes.append, **self.options
        )
        _, answered, _ = run_wsgi_app(wrapped, create_environ("/orders"), buffered=True)
        return answered

    @property
    def unit(self) -> UnitState:
        return self.outcomes[-1].unit_of_work


async def get(
    db: Any, view: Callable[[], Any], commit: Any = "head", status: int = 201, **options: Any
) -> tuple[int, UnitState]:
    """Answer one request by the async *view*, and return the status and how the unit of work ended."""
    outcomes: list[Outcome] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await view()
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})

    wrapped = asgi.PostResponseMiddleware(app, unit_of_work=db, commit=commit, on_finished=outcomes.append, **options)
    server = await StrictASGIServer("POST").run(wrapped)
    assert server.status is not None
    assert not server.broken
    return server.status, outcomes[-1].unit_of_work


MODES = ["head", "buffered", "after_send"]


@pytest.mark.parametrize("commit", MODES)
def test_what_a_view_adds_is_committed(engine: Engine, commit: str) -> None:
    site = WSGI(engine, commit)

    def view() -> list[bytes]:
        site.db.session.add(Order(id=1))
        return [b"one"]

    assert site.get(view) == "201 Created"
    assert (orders(engine), site.unit, checked_out(engine)) == ([1], "committed", 0)


@pytest.mark.parametrize("commit", MODES)
def test_a_commit_that_fails_leaves_nothing_and_harms_nobody(engine: Engine, commit: str) -> None:
    site = WSGI(engine, commit)

    def refused() -> list[bytes]:
        site.db.session.add(Order(id=1, customer=99))
        return [b"one"]

    def good() -> list[bytes]:
        site.db.session.execute(insert(Order).values(id=2))
        return [b"two"]

    answered = site.get(refused)
    assert answered == ("201 Created" if commit == "after_send" else "500 INTERNAL SERVER ERROR".title())
    assert (orders(engine), site.unit, checked_out(engine)) == ([], "failed", 0)
    assert site.get(good) == "201 Created"
    assert (orders(engine), site.unit, checked_out(engine)) == ([2], "committed", 0)


@pytest.mark.parametrize("commit", MODES)
def test_a_status_from_400_rolls_back_core_text_included(engine: Engine, commit: str) -> None:
    site = WSGI(engine, commit)

    def view() -> list[bytes]:
        site.db.session.execute(text("INSERT INTO orders (id) VALUES (1)"))
        return [b"no"]

    assert site.get(view, "409 Conflict") == "409 Conflict"
    assert (orders(engine), site.unit, checked_out(engine)) == ([], "rolled_back", 0)


@pytest.mark.parametrize("commit", MODES)
def test_an_untouched_session_opens_no_connection(engine: Engine, commit: str) -> None:
    opened: list[object] = []
    event.listen(engine, "checkout", lambda *_: opened.append(1))
    site = WSGI(engine, commit)
    site.get(lambda: [b"nothing"])
    assert (opened, site.unit) == ([], "committed")

    def asks_only() -> list[bytes]:
        assert isinstance(site.db.session, Session)
        return [b"nothing"]

    site.get(asks_only)
    assert (opened, site.unit) == ([], "committed")


def test_a_view_that_commits_itself_is_left_alone(engine: Engine) -> None:
    site = WSGI(engine)

    def view() -> list[bytes]:
        site.db.session.add(Order(id=1))
        site.db.session.commit()
        return [b"mine"]

    assert site.get(view, "500 Broken") == "500 Broken"
    assert (orders(engine), site.unit) == ([1], "none")


@pytest.mark.parametrize("commit", MODES)
def test_a_swallowed_error_does_not_pass_for_a_commit(engine: Engine, commit: str) -> None:
    """PostgreSQL rolls back, and says COMMIT without an error; on SQLite the transaction goes on."""
    site = WSGI(engine, commit)
    lives_on = engine.dialect.name == "sqlite"

    def view() -> list[bytes]:
        site.db.session.execute(text("INSERT INTO orders (id) VALUES (1)"))
        with pytest.raises(DBAPIError):
            site.db.session.execute(text("INSERT INTO nowhere VALUES (1)"))
        return [b"one"]

    answered = site.get(view)
    assert answered.startswith("201" if lives_on or commit == "after_send" else "500")
    assert (orders(engine), site.unit) == (([1], "committed") if lives_on else ([], "failed"))


@pytest.mark.service("mariadb")
def test_a_swallowed_deadlock_does_not_pass_for_a_commit_of_all() -> None:
    """MariaDB has rolled back what came before it, and a COMMIT would keep the rest."""
    with mariadb.database() as url, disposed(create_engine(url)) as engine:
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE stock (id INTEGER PRIMARY KEY, left_over INTEGER) ENGINE=InnoDB"))
            connection.execute(text("INSERT INTO stock VALUES (1, 0), (2, 0), (3, 0), (4, 0), (5, 0)"))
        site = WSGI(engine)
        other_waits = threading.Thread(target=_take_all_but_the_first, args=(engine,))

        def view() -> list[bytes]:
            site.db.session.execute(text("UPDATE stock SET left_over = 1 WHERE id = 1"))
            other_waits.start()
            with engine.connect() as watching:
                while not watching.scalar(WAITING):
                    watching.rollback()
                    time.sleep(0.2)  # a view that is read more often than every 0.1 s never changes
            with pytest.raises(DBAPIError, match="1213"):
                site.db.session.execute(text("UPDATE stock SET left_over = 1 WHERE id = 2"))
            site.db.session.execute(text("UPDATE stock SET left_over = 9 WHERE id = 0"))
            return [b"all of it"]

        assert site.get(view).startswith("503")  # a deadlock is worth another try
        other_waits.join()
        assert site.unit == "failed"


def _take_all_but_the_first(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE stock SET left_over = 2 WHERE id > 1"))
        connection.execute(text("UPDATE stock SET left_over = 2 WHERE id = 1"))


@pytest.fixture
def few_objects() -> Iterator[None]:
    """Keep what is there already from being looked through at each `gc.collect()`: in a long run that takes a while."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("few_objects")
def test_an_engine_in_the_place_of_an_earlier_one_is_heard_as_well() -> None:
    """SQLAlchemy's event registry goes by the id of an engine, which a later one may have again."""
    dialects = []
    for _ in range(60):
        engine, use = create_engine("sqlite://"), Use()
        with Session(engine) as session:
            event.listen(session, "after_begin", use.on_begin)
            with pytest.raises(DBAPIError):
                session.execute(text("SELECT broken"))
            assert len(use.lost()) == 1
        dialects.append(engine.dialect)
        engine.dispose()
        del engine, session
        gc.collect()


def test_an_error_inside_a_savepoint_harms_nothing(engine: Engine) -> None:
    site = WSGI(engine)

    def view() -> list[bytes]:
        site.db.session.execute(text("INSERT INTO orders (id) VALUES (1)"))
        with pytest.raises(DBAPIError), site.db.session.begin_nested():
            site.db.session.execute(text("INSERT INTO nowhere VALUES (1)"))
        return [b"one"]

    assert site.get(view) == "201 Created"
    assert orders(engine) == [1]


def test_in_head_mode_the_connection_is_back_before_the_first_byte(engine: Engine) -> None:
    site = WSGI(engine)
    seen: list[int] = []

    def view() -> Iterator[bytes]:
        site.db.session.add(Order(id=1))
        site.db.session.flush()

        def body() -> Iterator[bytes]:
            yield b"first"
            seen.append(checked_out(engine))
            yield b"second"

        return body()

    site.get(view)
    assert seen == [0]


def test_a_late_write_is_rolled_back_and_warned_of(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    site = WSGI(engine)

    def view() -> Iterator[bytes]:
        session = site.db.session
        session.add(Order(id=1))

        def body() -> Iterator[bytes]:
            yield b"first"
            session.execute(text("INSERT INTO orders (id) VALUES (2)"))
            yield b"second"

        return body()

    site.get(view)
    assert (orders(engine), checked_out(engine)) == ([1], 0)
    assert "GET /orders: late write" in caplog.text


def test_a_late_read_works_and_is_no_late_write(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    site = WSGI(engine)
    read: list[int] = []

    def view() -> Iterator[bytes]:
        site.db.session.add(Order(id=1))

        def body() -> Iterator[bytes]:
            yield b"first"
            read.extend(site.db.session.scalars(text("SELECT id FROM orders")))
            yield b"second"

        return body()

    site.get(view)
    assert (read, checked_out(engine)) == ([1], 0)
    assert "late write" not in caplog.text


@pytest.mark.parametrize("commit", MODES)
def test_a_request_leaves_neither_its_exchange_nor_its_session_to_the_collector(engine: Engine, commit: str) -> None:
    site = WSGI(engine, commit)
    alive: list[weakref.ref[Any]] = []

    def view() -> list[bytes]:
        site.db.session.add(Order(id=1))
        alive.extend(weakref.ref(found) for found in (site.db.session, current_exchange()))
        return [b"one"]

    gc.disable()
    try:
        site.get(view)
        assert [found() for found in alive] == [None, None]
    finally:
        gc.enable()


@pytest.mark.parametrize("commit", MODES)
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_an_async_session_keeps_the_same_promises(engine: Engine, async_engine: AsyncEngine, commit: str) -> None:
    db = AsyncSQLAlchemyUnitOfWork(async_sessionmaker(async_engine))

    async def good() -> None:
        db.session.add(Order(id=1))

    async def refused() -> None:
        db.session.add(Order(id=2, customer=99))

    async def own() -> None:
        db.session.add(Order(id=3))
        await db.session.commit()

    async def swallows() -> None:
        with pytest.raises(DBAPIError):
            await db.session.execute(text("INSERT INTO nowhere VALUES (1)"))

    async def nothing() -> None: ...

    assert await get(db, good, commit) == (201, "committed")
    assert await get(db, refused, commit) == (201 if commit == "after_send" else 500, "failed")
    assert await get(db, own, commit) == (201, "none")
    assert await get(db, nothing, commit) == (201, "committed")
    given_up = engine.dialect.name == "postgresql"
    assert (await get(db, swallows, commit))[1] == ("failed" if given_up else "committed")
    assert await get(db, good, commit, status=404) == (404, "rolled_back")
    assert orders(engine) == [1, 3]
    assert checked_out(async_engine) == 0


@pytest.mark.parametrize("commit", MODES)
@pytest.mark.anyio
async def test_a_sync_session_under_asgi_commits_on_a_thread(engine: Engine, commit: str) -> None:
    db = SQLAlchemyUnitOfWork(sessionmaker(engine))
    threads: list[threading.Thread] = []
    event.listen(engine, "commit", lambda _: threads.append(threading.current_thread()))

    async def view() -> None:
        db.session.add(Order(id=1))

    assert await get(db, view, commit) == (201, "committed")
    assert orders(engine) == [1]
    assert threads[0] is not threading.main_thread()
    assert checked_out(engine) == 0


@pytest.fixture
def blackhole() -> Iterator[Blackhole]:
    at = make_url(postgres.url())
    proxy = Blackhole(at.host or "127.0.0.1", at.port or 5432)
    yield proxy
    proxy.close()


@pytest.mark.service("postgresql")
def test_a_rollback_that_hangs_is_bounded_and_its_connection_given_up(
    blackhole: Blackhole, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"postgresql+psycopg://postgres@127.0.0.1:{blackhole.port}/test"
    with disposed(create_engine(url, connect_args={"gssencmode": "disable"})) as engine:
        site = WSGI(engine, cleanup_timeout=0.3)

        def view() -> list[bytes]:
            site.db.session.execute(text("SELECT 1"))
            blackhole.dark.set()
            return [b"no"]

        assert site.get(view, "409 Conflict") == "409 Conflict"
        assert (site.unit, checked_out(engine)) == ("rolled_back", 0)
        assert "its connection is severed" in caplog.text
        blackhole.dark.clear()
        site.get(lambda: [str(site.db.session.scalar(text("SELECT 1"))).encode()])
        assert site.unit == "committed"


@pytest.mark.service("postgresql")
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_an_async_rollback_that_hangs_is_bounded_too(
    blackhole: Blackhole, caplog: pytest.LogCaptureFixture
) -> None:
    engine = create_async_engine(f"postgresql+asyncpg://postgres@127.0.0.1:{blackhole.port}/test")
    db = AsyncSQLAlchemyUnitOfWork(async_sessionmaker(engine))

    async def view() -> None:
        await db.session.execute(text("SELECT 1"))
        blackhole.dark.set()

    async def again() -> None:
        assert await db.session.scalar(text("SELECT 1")) == 1

    with caplog.at_level(logging.ERROR):
        assert await get(db, view, status=409, cleanup_timeout=0.3) == (409, "rolled_back")
    assert "could not roll back" in caplog.text
    assert checked_out(engine) == 0
    blackhole.dark.clear()
    assert await get(db, again) == (201, "committed")
    await engine.dispose()


@pytest.mark.service("postgresql")
@pytest.mark.parametrize("commit", MODES)
def test_a_connection_lost_inside_commit_leaves_it_unknown(blackhole: Blackhole, commit: str) -> None:
    url = f"postgresql+psycopg://postgres@127.0.0.1:{blackhole.port}/test"
    with disposed(create_engine(url, connect_args={"gssencmode": "disable"})) as engine:
        event.listen(engine, "commit", lambda _: blackhole.cut())
        site = WSGI(engine, commit)

        def view() -> list[bytes]:
            return [str(site.db.session.scalar(text("SELECT 1"))).encode()]

        assert site.get(view)[:3] == ("201" if commit == "after_send" else "503")
        assert (site.unit, checked_out(engine)) == ("unknown", 0)


@pytest.mark.service("postgresql")
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_an_async_connection_lost_inside_commit_leaves_it_unknown(blackhole: Blackhole) -> None:
    engine = create_async_engine(f"postgresql+asyncpg://postgres@127.0.0.1:{blackhole.port}/test")
    event.listen(engine.sync_engine, "commit", lambda _: blackhole.cut())
    db = AsyncSQLAlchemyUnitOfWork(async_sessionmaker(engine))

    async def view() -> None:
        await db.session.execute(text("SELECT 1"))

    assert await get(db, view) == (503, "unknown")
    assert checked_out(engine) == 0
    await engine.dispose()


def test_outside_of_a_request_the_session_says_why_there_is_none(engine: Engine) -> None:
    db = SQLAlchemyUnitOfWork(sessionmaker(engine))
    with pytest.raises(NoExchange, match="wrap the application"):
        _ = db.session


def test_a_session_of_another_middleware_says_so(engine: Engine) -> None:
    site, other = WSGI(engine), SQLAlchemyUnitOfWork(sessionmaker(engine))

    def view() -> list[bytes]:
        with pytest.raises(NoExchange, match="outermost PostResponseMiddleware"):
            _ = other.session
        return [b"done"]

    assert site.get(view) == "201 Created"


def test_what_makes_no_session_is_refused_at_construction(engine: Engine) -> None:
    with pytest.raises(ConfigurationError, match="one session for all requests"):
        SQLAlchemyUnitOfWork(Session(engine))  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="use AsyncSQLAlchemyUnitOfWork"):
        SQLAlchemyUnitOfWork(async_sessionmaker())  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="expected a sessionmaker"):
        AsyncSQLAlchemyUnitOfWork("sqlite://")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="one session for all requests"):
        AsyncSQLAlchemyUnitOfWork(AsyncSession())  # type: ignore[arg-type]


def test_a_registry_of_sessions_is_refused_and_what_it_makes_them_with_is_taken(engine: Engine) -> None:
    """Its sessions are shared, and an application removes them at its own time: 201, and no row."""
    registry = scoped_session(sessionmaker(engine))
    with pytest.raises(ConfigurationError, match="session_factory"):
        SQLAlchemyUnitOfWork(registry)
    with pytest.raises(ConfigurationError, match=r"found a registry of sessions \(async_scoped_session\)"):
        AsyncSQLAlchemyUnitOfWork(async_scoped_session(async_sessionmaker(), object))
    site = WSGI(engine)
    site.db = SQLAlchemyUnitOfWork(registry.session_factory)

    def view() -> list[bytes]:
        site.db.session.add(Order(id=1))
        registry.remove()
        return [b"placed"]

    assert site.get(view) == "201 Created"
    assert orders(engine) == [1]


def test_an_async_unit_of_work_is_refused_under_wsgi() -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        return []

    with pytest.raises(WrongApplication, match="use its sync twin"):
        wsgi.PostResponseMiddleware(app, unit_of_work=AsyncSQLAlchemyUnitOfWork(async_sessionmaker()))  # type: ignore[arg-type]
