"""The orders database as a test sees it: beside the server, on a connection of its own."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Protocol

from tests.services import postgres

TABLES = (
    "CREATE TABLE orders (key VARCHAR(80) PRIMARY KEY)",
    "CREATE TABLE lines (key VARCHAR(80) PRIMARY KEY,"
    " order_key VARCHAR(80) NOT NULL REFERENCES orders (key) DEFERRABLE INITIALLY DEFERRED)",
)
"""The foreign key is looked at inside COMMIT and not before."""


class Orders(Protocol):
    """What the tests ask of it."""

    environment: dict[str, str]
    """How the server's process finds it."""

    def has(self, key: str) -> bool:
        """Whether an order is there for everybody to see."""
        ...


class SQLiteOrders:
    """Orders in a file."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self.environment = {"POSTRESPONSE_TEST_DATABASE": f"sqlite:///{path}"}

    def has(self, key: str) -> bool:
        """Whether an order is there for everybody to see."""
        return self._connection.execute("SELECT 1 FROM orders WHERE key = ?", (key,)).fetchone() is not None


class PostgreSQLOrders:
    """Orders in a schema."""

    def __init__(self, connection: postgres.Connection, schema: str) -> None:
        self._connection = connection
        self.environment = {"POSTRESPONSE_TEST_DATABASE": postgres.url(), "POSTRESPONSE_TEST_SCHEMA": schema}

    def has(self, key: str) -> bool:
        """Whether an order is there for everybody to see."""
        return self._connection.execute("SELECT 1 FROM orders WHERE key = %s", (key,)).fetchone() is not None


@contextmanager
def sqlite_orders(folder: Path) -> Iterator[Orders]:
    """Make an empty database in a file; readers and one writer do not wait for each other (WAL)."""
    path = folder / "orders.sqlite3"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=OFF")
        for table in TABLES:
            connection.execute(table)
        yield SQLiteOrders(connection, path)


@contextmanager
def postgresql_orders(_folder: Path) -> Iterator[Orders]:
    """Make an empty database in a schema of its own."""
    with postgres.schema() as schema, closing(postgres.connect(schema)) as connection:
        for table in TABLES:
            connection.execute(table)
        yield PostgreSQLOrders(connection, schema)


DATABASES = {"sqlite": sqlite_orders, "postgresql": postgresql_orders}
