"""SQLAlchemy units of work on a SQLite file, through a driver whose every call can fail.

The faulty driver is a subclass of the real one's connection and cursor, given as its `factory`: so one serves the sync
dialect and the async one, which calls it on the thread of each connection.
"""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakSet

import anyio
import sqlalchemy
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import sessionmaker

from postresponse.unit_of_work.sqlalchemy import AsyncSQLAlchemyUnitOfWork, SQLAlchemyUnitOfWork
from tests.faults.plan import Plan
from tests.faults.worlds import on_a_thread

__all__ = ["AsyncOrders", "Orders"]

T = TypeVar("T")

SCHEMA = """
CREATE TABLE IF NOT EXISTS customer (id INTEGER PRIMARY KEY);
INSERT OR IGNORE INTO customer VALUES (1);
CREATE TABLE IF NOT EXISTS orders (
    id INTEGER,
    customer INTEGER REFERENCES customer (id) DEFERRABLE INITIALLY DEFERRED
);
CREATE TABLE IF NOT EXISTS line (order_id INTEGER);
"""
INSERT = text("INSERT INTO orders VALUES (:order, :customer)")
LINES = text("INSERT INTO line VALUES (:order)")
COUNT = text("SELECT count(*) FROM orders WHERE id = :order")
CUSTOMER, NOBODY = 1, 2


class Ledger:
    """The connections that were opened, and the plan that their calls go by."""

    def __init__(self) -> None:
        self.plan = Plan()
        self.open: set[FaultyConnection] = set()
        self.forgotten = 0

    def connect(self, *args: Any, **options: Any) -> "FaultyConnection":
        """Open a connection; it is sqlite3's `factory`."""
        opened: list[FaultyConnection] = []
        faults = len(self.plan.fired)

        def do() -> FaultyConnection:
            opened.append(FaultyConnection(self, *args, **options))
            return opened[0]

        try:
            return self.plan.around("dbapi.connect", do)
        except BaseException:
            for connection in opened:
                connection.die()
            raise
        finally:
            # One that was cancelled is opened all the same, and aiosqlite forgets it.
            self.forgotten += len(self.plan.fired) - faults


class FaultyConnection(sqlite3.Connection):
    """A connection of the standard library's driver."""

    def __init__(self, ledger: Ledger, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.given_up = False
        self._ledger = ledger
        self._cursors: WeakSet[FaultyCursor] = WeakSet()
        ledger.open.add(self)
        cursor = super().cursor()
        # An order that nobody made is refused by COMMIT; what is written need not survive the machine.
        for pragma in ("foreign_keys=ON", "synchronous=OFF", "journal_mode=MEMORY"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    def __hash__(self) -> int:
        return id(self)

    def around(self, name: str, do: Callable[[], T]) -> T:
        return self._ledger.plan.around(f"dbapi.{name}", do, self.die)

    def die(self) -> None:
        """End as the other side would: SQLite rolls back, its locks are gone, and each later call finds it closed."""
        if self not in self._ledger.open:
            return
        self._ledger.open.discard(self)
        for cursor in self._cursors:
            sqlite3.Cursor.close(cursor)
        super().close()

    def cursor(self, *args: Any) -> Any:
        def make() -> FaultyCursor:
            made = sqlite3.Connection.cursor(self, FaultyCursor)
            self._cursors.add(made)
            return made

        return self.around("cursor", make)

    def commit(self) -> None:
        self.around("commit", super().commit)

    def rollback(self) -> None:
        self.around("rollback", super().rollback)

    def close(self) -> None:
        self.given_up = True
        self.around("close", self.die)


class FaultyCursor(sqlite3.Cursor):
    """A cursor of it."""

    connection: FaultyConnection

    def execute(self, *args: Any) -> Any:
        return self.connection.around("execute", lambda: sqlite3.Cursor.execute(self, *args))

    def executemany(self, *args: Any) -> Any:
        return self.connection.around("executemany", lambda: sqlite3.Cursor.executemany(self, *args))

    def fetchone(self) -> Any:
        return self.connection.around("fetchone", super().fetchone)

    def fetchall(self) -> Any:
        return self.connection.around("fetchall", super().fetchall)

    def close(self) -> None:
        self.connection.around("cursor.close", super().close)


class _Orders:
    """What both worlds share: the file, its truth, and what is left behind."""

    engine: Engine

    def __init__(self, folder: Path) -> None:
        self.path = folder / "orders.sqlite3"
        self.ledger = Ledger()
        self.options = {"factory": self.ledger.connect, "timeout": 0}
        self._miscounts = False
        self._truth = sqlite3.connect(self.path, isolation_level=None, timeout=0)
        self._truth.executescript(SCHEMA)

    @property
    def plan(self) -> Plan:
        return self.ledger.plan

    @plan.setter
    def plan(self, plan: Plan) -> None:
        self.ledger.plan = plan

    def rows(self, order: int) -> int:
        (count,) = self._truth.execute("SELECT count(*) FROM orders WHERE id = ?", (order,)).fetchone()
        (lines,) = self._truth.execute("SELECT count(*) FROM line WHERE order_id = ?", (order,)).fetchone()
        assert lines == 2 * count, "half an order"
        return int(count)

    def leaks(self) -> list[str]:
        found = []
        pool: Any = self.engine.pool
        for connection in [connection for connection in self.ledger.open if connection.given_up]:
            connection.die()  # its close failed, and there is nothing more that anybody could do
        if pool.checkedout() and not self._lost_count():
            found.append(f"{pool.checkedout()} connections that are not back in the pool")
        surplus = len(self.ledger.open) - pool.checkedin() - pool.checkedout()
        if surplus > self.ledger.forgotten:
            found.append(f"{surplus} open connections that are not in the pool")
        if any(connection.in_transaction for connection in self.ledger.open):
            found.append("a connection with its transaction open")
        return found

    def _lost_count(self) -> bool:
        """Whether the pool takes one for checked out whose reset was cut off: this version does, later ones do not."""
        exits = any(isinstance(fired.error, SystemExit | KeyboardInterrupt) for fired in self.plan.fired)
        self._miscounts = self._miscounts or (exits and sqlalchemy.__version__.startswith("2.0."))
        return self._miscounts

    def close(self) -> None:
        for connection in list(self.ledger.open):
            connection.die()
        self._truth.close()


class Orders(_Orders):
    """Sync sessions."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.engine = create_engine(f"sqlite:///{self.path}", connect_args=self.options)
        self._db = SQLAlchemyUnitOfWork(sessionmaker(self.engine))

    def unit_of_work(self, exchange: Any) -> Any:
        return self.plan.around("unit.factory", lambda: self._db(exchange))

    def store(self, order: int, *, refused: bool = False) -> None:
        session = self._db.session
        session.execute(INSERT, {"order": order, "customer": NOBODY if refused else CUSTOMER})
        session.execute(LINES, [{"order": order}] * 2)
        assert session.scalar(COUNT, {"order": order}) == 1

    async def astore(self, order: int, *, refused: bool = False) -> None:
        await on_a_thread(lambda: self.store(order, refused=refused))

    async def chill(self) -> None:
        self.engine.dispose()

    def close(self) -> None:
        self.plan = Plan()
        self.engine.dispose()
        super().close()


class AsyncOrders(_Orders):
    """Async sessions over aiosqlite."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._engine = create_async_engine(f"sqlite+aiosqlite:///{self.path}", connect_args=self.options)
        self.engine = self._engine.sync_engine
        self._db = AsyncSQLAlchemyUnitOfWork(async_sessionmaker(self._engine))

    def unit_of_work(self, exchange: Any) -> Any:
        return self.plan.around("unit.factory", lambda: self._db(exchange))

    def store(self, order: int, *, refused: bool = False) -> None:
        raise AssertionError("an async session has no sync handler")

    async def astore(self, order: int, *, refused: bool = False) -> None:
        session = self._db.session
        await session.execute(INSERT, {"order": order, "customer": NOBODY if refused else CUSTOMER})
        await session.execute(LINES, [{"order": order}] * 2)
        assert await session.scalar(COUNT, {"order": order}) == 1

    async def chill(self) -> None:
        await self._engine.dispose()

    def close(self) -> None:
        self.plan = Plan()
        anyio.run(self._engine.dispose)
        super().close()
