"""The databases of the project, seen from outside of Django."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import psycopg
from django.db import connections

from tests.services import postgres

__all__ = ["Database", "PostgreSQL", "SQLite"]


class Database(Protocol):
    """One alias, and what somebody else sees of it."""

    alias: str

    def orders(self) -> list[int | None]:
        """The customers of the orders that are committed, in order."""

    def open_transactions(self) -> int:
        """How many transactions hold something."""

    def clear(self) -> None:
        """Delete all rows."""


@dataclass
class SQLite:
    """A file."""

    alias: str

    def _connect(self) -> Any:
        return closing(sqlite3.connect(connections.settings[self.alias]["NAME"], timeout=5, isolation_level=None))

    def orders(self) -> list[int | None]:
        with self._connect() as connection:
            return [row[0] for row in connection.execute("SELECT customer_id FROM orders ORDER BY id")]

    def open_transactions(self) -> int:
        """One if the file is locked, by a reader or a writer."""
        with self._connect() as connection:
            connection.execute("PRAGMA busy_timeout = 0")
            try:
                connection.execute("BEGIN EXCLUSIVE")
            except sqlite3.OperationalError:
                return 1
            return 0

    def clear(self) -> None:
        with self._connect() as connection:
            connection.execute("DELETE FROM orders")


@dataclass
class PostgreSQL:
    """A schema; Django's connections carry its name."""

    alias: str
    schema: str

    def orders(self) -> list[int | None]:
        return [row[0] for row in self._rows("SELECT customer_id FROM orders ORDER BY id")]

    def open_transactions(self) -> int:
        return len([state for state in self.states() if state.startswith("idle in transaction")])

    def states(self) -> list[str]:
        """What each of Django's connections is doing."""
        query = f"SELECT state FROM pg_stat_activity WHERE application_name = '{self.schema}' AND state IS NOT NULL"
        return [str(row[0]) for row in self._rows(query)]

    def clear(self) -> None:
        with postgres.connect(self.schema) as connection:
            connection.execute("DELETE FROM orders")

    def _rows(self, query: str) -> list[Any]:
        with postgres.connect(self.schema) as connection:
            return list(connection.execute(psycopg.sql.SQL(query)))

    @classmethod
    @contextmanager
    def made(cls, alias: str) -> Iterator["PostgreSQL"]:
        """Make a schema, and point *alias* at it."""
        with postgres.schema() as name:
            connections.settings[alias]["OPTIONS"] |= {
                "options": f"-csearch_path={name}",
                "application_name": name,
            }
            yield cls(alias, name)
