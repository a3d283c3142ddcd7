"""A database that refuses orders inside of COMMIT: by a deferred foreign key, or at a flush that comes so late."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, ForeignKey, create_engine, event, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker
from sqlalchemy.pool import NullPool

from postresponse.core.exchange import Failure
from postresponse.core.lifecycle import Outcome
from postresponse.unit_of_work.sqlalchemy import AsyncSQLAlchemyUnitOfWork, SQLAlchemyUnitOfWork

__all__ = ["REFUSED", "Order", "Shop"]


class Base(DeclarativeBase):
    """Tables."""


class Customer(Base):
    """Somebody who orders; there is nobody."""

    __tablename__ = "customer"

    id: Mapped[int] = mapped_column(primary_key=True)


class Order(Base):
    """What was ordered; each item once, and by a customer that exists."""

    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[str] = mapped_column(unique=True)
    customer: Mapped[int | None] = mapped_column(ForeignKey("customer.id", deferrable=True, initially="DEFERRED"))


REFUSED: dict[str, Callable[[], list[Order]]] = {
    "at the commit": lambda: [Order(item="tea", customer=404)],
    "at the flush": lambda: [Order(item="tea"), Order(item="tea")],
}
"""Orders that COMMIT refuses, and why."""


class Shop:
    """The database, units of work on it, and what they were told.

    Attributes:
        db: Sync units of work; they run under ASGI too.
        adb: Async ones.
        failures: What `on_commit_failed` and `on_error` got.
        outcomes: What `on_finished` got.
    """

    def __init__(self, path: Path) -> None:
        self.engine: Engine = create_engine(f"sqlite:///{path}")
        self.async_engine: AsyncEngine = create_async_engine(f"sqlite+aiosqlite:///{path}", poolclass=NullPool)
        for engine in (self.engine, self.async_engine.sync_engine):
            event.listen(engine, "connect", _check_keys)
        Base.metadata.create_all(self.engine)
        self.db = SQLAlchemyUnitOfWork(sessionmaker(self.engine))
        self.adb = AsyncSQLAlchemyUnitOfWork(async_sessionmaker(self.async_engine))
        self.failures: list[Failure] = []
        self.outcomes: list[Outcome] = []

    @property
    def told(self) -> dict[str, Any]:
        """Options of a middleware that has all it hears of told here."""
        return {
            "on_commit_failed": self.failures.append,
            "on_error": self.failures.append,
            "on_finished": self.outcomes.append,
        }

    @property
    def items(self) -> list[str]:
        """What was ordered and is committed, seen through another connection."""
        with self.engine.connect() as connection:
            return list(connection.scalars(select(Order.item).order_by(Order.id)))

    @property
    def unit(self) -> str:
        """How the unit of work of the one request ended."""
        (outcome,) = self.outcomes
        return outcome.unit_of_work.value

    def all_given_back(self) -> bool:
        """Whether every connection is back in its pool, with no transaction open that would lock the file."""
        with self.engine.connect() as connection:
            connection.execute(text("PRAGMA busy_timeout = 0"))
            connection.rollback()
            connection.execute(text("BEGIN EXCLUSIVE"))
            connection.rollback()
        pool: Any = self.engine.pool
        return bool(pool.checkedout() == 0)


def _check_keys(connection: Any, record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()
