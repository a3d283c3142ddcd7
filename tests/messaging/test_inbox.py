"""Twice delivered, once handled: on SQLite, PostgreSQL and MariaDB, in the consumer's own transaction."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import pytest
from sqlalchemy import Engine, MetaData, Table, create_engine, func, insert, select, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import NullPool

from postresponse.exceptions import ConfigurationError, NoTable, NotAFunction
from postresponse.messaging import Delivery, Inbox, Receiver, once
from postresponse.messaging.message import sealed
from postresponse.messaging.transports.memory import MemoryTransport
from postresponse.work import TaskSupervisor
from tests.messaging.receiving import message, running
from tests.services import mariadb, postgres
from tests.work.conftest import Told
from tests.work.waiting import auntil

POSTGRESQL = pytest.param("postgresql", marks=pytest.mark.service("postgresql"))
MARIADB = pytest.param("mariadb", marks=pytest.mark.service("mariadb"))


class Shop:
    """A database with orders and an inbox."""

    def __init__(self, engine: Engine, async_engine: AsyncEngine | None) -> None:
        self.engine = engine
        self.async_engine = async_engine
        self.metadata = MetaData()
        self.inbox = Inbox(self.metadata)
        self.orders = Table("orders", self.metadata, *_columns())
        self.metadata.create_all(engine)
        self.sessions = sessionmaker(engine)

    def stored(self) -> list[str]:
        with self.engine.connect() as connection:
            return list(connection.execute(select(self.orders.c.item).order_by(self.orders.c.item)).scalars())

    def noted(self) -> int:
        with self.engine.connect() as connection:
            return connection.execute(select(func.count()).select_from(self.inbox.table)).scalar_one()

    def async_sessions(self) -> async_sessionmaker[AsyncSession]:
        assert self.async_engine is not None
        return async_sessionmaker(self.async_engine)


def _columns() -> Any:
    from sqlalchemy import Column, String

    return [Column("item", String(50), nullable=False)]


@pytest.fixture
def shops(tmp_path: Path) -> Iterator[Callable[[str], Shop]]:
    with ExitStack() as stack:

        def made(kind: str) -> Shop:
            if kind == "sqlite":
                path = tmp_path / "shop.sqlite3"
                engine = create_engine(f"sqlite:///{path}")
                async_engine = create_async_engine(f"sqlite+aiosqlite:///{path}", poolclass=NullPool)
            elif kind == "postgresql":
                schema = stack.enter_context(postgres.schema())
                url = postgres.url().replace("postgresql://", "postgresql+psycopg://", 1)
                options = {"options": f"-csearch_path={schema}"}
                engine = create_engine(url, connect_args=options, poolclass=NullPool)
                async_engine = create_async_engine(url, connect_args=options, poolclass=NullPool)
            else:
                engine = create_engine(stack.enter_context(mariadb.database()), poolclass=NullPool)
                async_engine = None  # no async driver of it is among the tests'
            stack.callback(engine.dispose)
            return Shop(engine, async_engine)

        yield made


def delivery(item: str = "tea") -> Delivery:
    return Delivery(uuid4(), "orders", "book", sealed(item))


# -- sync -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sqlite", POSTGRESQL, MARIADB])
def test_what_comes_twice_is_handled_once(shops: Callable[[str], Shop], kind: str) -> None:
    shop = shops(kind)

    @once(shop.sessions, inbox=shop.inbox)
    def book(delivery: Delivery, session: Session) -> None:
        session.execute(insert(shop.orders).values(item=delivery.payload))

    tea, milk = delivery("tea"), delivery("milk")
    for each in (tea, tea, milk, tea, milk):
        book(each)
    assert (shop.stored(), shop.noted()) == (["milk", "tea"], 2)


@pytest.mark.parametrize("kind", ["sqlite", POSTGRESQL, MARIADB])
def test_what_was_rolled_back_is_handled_again(shops: Callable[[str], Shop], kind: str) -> None:
    shop, attempts = shops(kind), []

    @once(shop.sessions, inbox=shop.inbox)
    def book(delivery: Delivery, session: Session) -> None:
        session.execute(insert(shop.orders).values(item=delivery.payload))
        attempts.append(1)
        if len(attempts) == 1:
            raise ValueError("no")

    tea = delivery()
    with pytest.raises(ValueError, match="no"):
        book(tea)
    assert (shop.stored(), shop.noted()) == ([], 0)
    book(tea)
    book(tea)
    assert (shop.stored(), shop.noted(), len(attempts)) == (["tea"], 1, 2)


@pytest.mark.parametrize("kind", ["sqlite", POSTGRESQL, MARIADB])
def test_each_consumer_handles_it_once(shops: Callable[[str], Shop], kind: str) -> None:
    shop, seen = shops(kind), []

    def remember(delivery: Delivery, session: Session) -> None:
        seen.append(delivery.payload)

    def other(delivery: Delivery, session: Session) -> None:
        seen.append(delivery.payload.upper())

    handlers = [
        once(shop.sessions, inbox=shop.inbox)(remember),
        once(shop.sessions, inbox=shop.inbox)(other),
        once(shop.sessions, inbox=shop.inbox, consumer="Remember")(remember),
        once(shop.sessions, inbox=shop.inbox, consumer="remember")(remember),  # which is not the same
    ]
    tea = delivery()
    for handler in handlers * 2:
        handler(tea)
    assert sorted(seen) == ["TEA", "tea", "tea", "tea"]
    assert shop.noted() == 4


@pytest.mark.parametrize("first_one", ["commits", "rolls back"])
@pytest.mark.parametrize("kind", ["sqlite", POSTGRESQL, MARIADB])
def test_who_comes_at_the_same_moment_waits_for_the_first(
    shops: Callable[[str], Shop], kind: str, first_one: str
) -> None:
    shop, began, seen = shops(kind), threading.Event(), []
    release = threading.Event()

    @once(shop.sessions, inbox=shop.inbox)
    def book(delivery: Delivery, session: Session) -> None:
        seen.append(threading.current_thread().name)
        session.execute(insert(shop.orders).values(item=delivery.payload))
        if len(seen) == 1:
            began.set()
            assert release.wait(5)
            if first_one == "rolls back":
                raise ValueError("no")

    def call() -> None:
        try:
            book(tea)
        except ValueError as error:
            failed.append(str(error))

    tea = delivery()
    failed: list[str] = []
    threads = [threading.Thread(target=call, name=name) for name in ("first", "second")]
    threads[0].start()
    assert began.wait(5)
    threads[1].start()
    threads[1].join(0.2)
    assert threads[1].is_alive()
    release.set()
    for thread in threads:
        thread.join(10)
    assert shop.stored() == ["tea"]
    assert (seen, failed) == ((["first"], []) if first_one == "commits" else (["first", "second"], ["no"]))


@pytest.mark.parametrize("kind", ["sqlite", POSTGRESQL, MARIADB])
def test_the_inbox_forgets_what_is_old(shops: Callable[[str], Shop], kind: str) -> None:
    shop = shops(kind)
    with shop.engine.begin() as connection:
        for _ in range(3):
            assert shop.inbox.note(connection, "book", delivery())
    with shop.engine.begin() as connection:
        assert shop.inbox.purge(connection, timedelta(hours=1)) == 0
    with shop.engine.begin() as connection:
        connection.execute(text("SELECT 1")).all()
        threading.Event().wait(0.05)
        assert shop.inbox.purge(connection, timedelta(milliseconds=10)) == 3
    assert shop.noted() == 0


@pytest.mark.parametrize("kind", ["sqlite", POSTGRESQL, MARIADB])
def test_without_a_table_it_says_so(shops: Callable[[str], Shop], kind: str) -> None:
    shop = shops(kind)
    with shop.engine.begin() as connection:
        shop.inbox.table.drop(connection)
    with pytest.raises(NoTable, match="postresponse_inbox"):
        once(shop.sessions, inbox=shop.inbox)(nothing)(delivery())
    with shop.engine.begin() as connection:
        connection.execute(text(shop.inbox.ddl(shop.engine.dialect).rstrip(";\n")))
    once(shop.sessions, inbox=shop.inbox)(nothing)(delivery())
    assert shop.noted() == 1


def test_another_error_of_the_database_is_told_as_it_is(shops: Callable[[str], Shop]) -> None:
    shop = shops("sqlite")
    with shop.engine.begin() as connection:
        connection.execute(text("ALTER TABLE postresponse_inbox DROP COLUMN handled_at"))
    with pytest.raises(OperationalError, match="handled_at"):
        once(shop.sessions, inbox=shop.inbox)(nothing)(delivery())


# -- async ------------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("kind", ["sqlite", POSTGRESQL])
async def test_an_async_handler_runs_once_too_and_again_behind_a_rollback(
    shops: Callable[[str], Shop], kind: str
) -> None:
    shop, attempts = shops(kind), []

    @once(shop.async_sessions(), inbox=shop.inbox)
    async def book(delivery: Delivery, session: AsyncSession) -> None:
        await session.execute(insert(shop.orders).values(item=delivery.payload))
        attempts.append(1)
        if len(attempts) == 1:
            raise ValueError("no")

    tea = delivery()
    with pytest.raises(ValueError, match="no"):
        await book(tea)
    assert (shop.stored(), shop.noted()) == ([], 0)
    for _ in range(3):
        await book(tea)
    assert (shop.stored(), shop.noted(), len(attempts)) == (["tea"], 1, 2)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("kind", ["sqlite", POSTGRESQL])
async def test_async_ones_at_the_same_moment_wait_for_the_first(shops: Callable[[str], Shop], kind: str) -> None:
    shop, seen, release = shops(kind), [], anyio.Event()

    @once(shop.async_sessions(), inbox=shop.inbox)
    async def book(delivery: Delivery, session: AsyncSession) -> None:
        await session.execute(insert(shop.orders).values(item=delivery.payload))
        seen.append(1)
        await release.wait()

    tea = delivery()
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(book, tea)
            await auntil(lambda: seen)
            tasks.start_soon(book, tea)
            await anyio.sleep(0.1)
            assert len(seen) == 1
            release.set()
    assert (shop.stored(), shop.noted(), len(seen)) == (["tea"], 1, 1)


@pytest.mark.anyio
async def test_a_receiver_books_what_is_sent_twice_once(
    shops: Callable[[str], Shop], supervisor: TaskSupervisor, told: Told
) -> None:
    shop, queue = shops("sqlite"), MemoryTransport()

    @once(shop.sessions, inbox=shop.inbox)
    def book(delivery: Delivery, session: Session) -> None:
        session.execute(insert(shop.orders).values(item=delivery.payload))

    receiver = Receiver(queue, book, supervisor=supervisor)
    async with running(receiver):
        sent = message("tea")
        for _ in range(5):
            queue.send(sent)
        await auntil(lambda: not len(queue) and not receiver.in_flight)
    assert (shop.stored(), queue.dead) == (["tea"], [])


# -- what it cannot be given ------------------------------------------------------------------------------------------


def nothing(delivery: Delivery, session: Any) -> None:
    """Handles nothing."""


async def anothing(delivery: Delivery, session: Any) -> None:
    """Handles nothing, asynchronously."""


ANY_ONCE: Any = once
SYNC: Any = sessionmaker(create_engine("sqlite://"))
ASYNC: Any = async_sessionmaker(create_async_engine("sqlite+aiosqlite://"))


@pytest.mark.parametrize(
    ("sessions", "options", "handler", "error", "found"),
    [
        (
            Session,
            {},
            nothing,
            ConfigurationError,
            "once.. takes a sessionmaker or an async_sessionmaker, found <class",
        ),
        (SYNC, {"inbox": "inbox"}, nothing, ConfigurationError, "inbox: expected an Inbox, found 'inbox'"),
        (SYNC, {"consumer": ""}, nothing, ConfigurationError, "consumer: expected a name of 1 to 200 characters"),
        (SYNC, {"consumer": "x" * 201}, nothing, ConfigurationError, "consumer: expected a name"),
        (SYNC, {"consumer": 7}, nothing, ConfigurationError, "consumer: expected a name .*, found 7"),
        (SYNC, {}, anothing, ConfigurationError, "anothing and its sessions are not of one kind"),
        (ASYNC, {}, nothing, ConfigurationError, "nothing and its sessions are not of one kind"),
        (SYNC, {}, 7, NotAFunction, r"once\(\): expected a function, found 7"),
    ],
)
def test_an_option_that_cannot_be_is_refused(
    sessions: Any, options: dict[str, Any], handler: Any, error: type[Exception], found: str
) -> None:
    with pytest.raises(error, match=found):
        ANY_ONCE(sessions, **{"inbox": Inbox(), **options})(handler)


@pytest.mark.parametrize("options", [{"metadata": "mine"}, {"name": ""}, {"name": None}])
def test_an_inbox_that_cannot_be_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="expected"):
        Inbox(**options)


@pytest.mark.parametrize("older_than", [3600, timedelta(0), timedelta(seconds=-1)])
def test_an_age_that_is_none_is_refused(older_than: Any) -> None:
    with create_engine("sqlite://").connect() as connection, pytest.raises(ConfigurationError, match="older_than"):
        Inbox().purge(connection, older_than)


def test_the_handler_keeps_its_name() -> None:
    assert ANY_ONCE(SYNC, inbox=Inbox())(nothing).__name__ == "nothing"
