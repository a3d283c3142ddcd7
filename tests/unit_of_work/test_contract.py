"""Each unit of work of the package passes the suite that third parties get."""

import asyncio
import sqlite3
from collections.abc import Callable, Collection, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.core.signals import request_started
from django.db import connections
from sqlalchemy import Engine, QueuePool, create_engine, event, text
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import sessionmaker

from postresponse.testing.contracts import UnitOfWorkContract
from postresponse.unit_of_work.composite import Chained
from postresponse.unit_of_work.django import DjangoUnitOfWork
from postresponse.unit_of_work.sqlalchemy import AsyncSQLAlchemyUnitOfWork, SQLAlchemyUnitOfWork
from tests.unit_of_work.django_project.databases import Database

TABLES = (
    "CREATE TABLE orders (key TEXT PRIMARY KEY)",
    "CREATE TABLE lines (order_key TEXT NOT NULL REFERENCES orders (key) DEFERRABLE INITIALLY DEFERRED)",
)
INSERT = text("INSERT INTO orders VALUES (:key)")
REFUSED = text("INSERT INTO lines VALUES ('no such order')")


def foreign_keys(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute("PRAGMA synchronous=OFF")
    cursor.close()


class OnSQLite(UnitOfWorkContract):
    """A file with two tables."""

    @pytest.fixture(autouse=True)
    def _database(self, tmp_path: Path) -> Iterator[None]:
        self.path = tmp_path / "orders.db"
        self.engine = self.made(f"sqlite:///{self.path}")
        with self.engine.begin() as connection:
            for table in TABLES:
                connection.execute(text(table))
        self.db = self.unit()
        yield
        self.engine.dispose()
        self.end()

    def made(self, url: str) -> Engine:
        engine = create_engine(url)
        event.listen(engine, "connect", foreign_keys)
        return engine

    def unit(self) -> Any:
        return SQLAlchemyUnitOfWork(sessionmaker(self.engine))

    def end(self) -> None: ...

    def factory(self) -> Callable[[Any], Any]:
        return self.db  # type: ignore[no-any-return]

    def store(self, key: str) -> Any:
        self.db.session.execute(INSERT, {"key": key})

    def store_what_cannot_be_committed(self, key: str) -> Any:
        self.store(key)
        self.db.session.execute(REFUSED)

    def stored(self) -> Collection[str]:
        with self.engine.connect() as connection:
            return list(connection.scalars(text("SELECT key FROM orders")))

    def in_use(self) -> int:
        assert isinstance(self.engine.pool, QueuePool)
        return self.engine.pool.checkedout()


class TestSQLAlchemy(OnSQLite):
    """A session of SQLAlchemy's."""


class TestComposite(OnSQLite):
    """Two sessions, of which the second one is not used."""

    def unit(self) -> Any:
        self.one = SQLAlchemyUnitOfWork(sessionmaker(self.engine))
        return Chained(one=self.one, other=SQLAlchemyUnitOfWork(sessionmaker(self.engine)))

    def store(self, key: str) -> Any:
        self.one.session.execute(INSERT, {"key": key})

    def store_what_cannot_be_committed(self, key: str) -> Any:
        self.store(key)
        self.one.session.execute(REFUSED)


class TestAsyncSQLAlchemy(OnSQLite):
    """An async session."""

    protocols = ("asgi",)

    def unit(self) -> Any:
        from sqlalchemy import NullPool

        # Each request has an event loop of its own here, and a connection belongs to its loop.
        self.async_engine = create_async_engine(f"sqlite+aiosqlite:///{self.path}", poolclass=NullPool)
        event.listen(self.async_engine.sync_engine, "connect", foreign_keys)
        return AsyncSQLAlchemyUnitOfWork(async_sessionmaker(self.async_engine))

    def end(self) -> None:
        asyncio.run(self.async_engine.dispose())

    async def store(self, key: str) -> Any:
        await self.db.session.execute(INSERT, {"key": key})

    async def store_what_cannot_be_committed(self, key: str) -> Any:
        await self.store(key)
        await self.db.session.execute(REFUSED)


class TestDjango(UnitOfWorkContract):
    """A connection of Django's."""

    protocols: tuple[Any, ...] = ("wsgi",)

    @pytest.fixture(autouse=True)
    def _database(self, default: Database) -> None:
        self.database = default
        self.db = DjangoUnitOfWork()

    def factory(self) -> Callable[[Any], Any]:
        return self.db

    def store(self, key: str) -> Any:
        request_started.send(sender=type(self))  # as Django's handler does, at which the transaction begins
        with connections["default"].cursor() as cursor:
            cursor.execute("INSERT INTO orders (id) VALUES (%s)", [self.number(key)])

    def store_what_cannot_be_committed(self, key: str) -> Any:
        request_started.send(sender=type(self))
        with connections["default"].cursor() as cursor:
            cursor.execute("INSERT INTO orders (id, customer_id) VALUES (%s, 77)", [self.number(key)])

    def number(self, key: str) -> int:
        return NUMBERS.setdefault(key, len(NUMBERS) + 1000)

    def stored(self) -> Collection[str]:
        keys = {number: key for key, number in NUMBERS.items()}
        with closing(sqlite3.connect(connections.settings["default"]["NAME"])) as connection:
            return [keys[number] for (number,) in connection.execute("SELECT id FROM orders")]

    def in_use(self) -> int:
        return self.database.open_transactions()


class TestDjangoUnderASGI(TestDjango):
    """The same on the thread that a request's sync code has."""

    protocols = ("asgi",)

    async def store(self, key: str) -> Any:
        await sync_to_async(super().store)(key)

    async def store_what_cannot_be_committed(self, key: str) -> Any:
        await sync_to_async(super().store_what_cannot_be_committed)(key)


NUMBERS: dict[str, int] = {}
