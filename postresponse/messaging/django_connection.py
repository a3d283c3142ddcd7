"""Messages in Django's transactions: the outbox's own statements, through the cursor of a connection of Django's.

Imported where there is such a connection, and by nobody else: the package does without Django.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from django.db import DatabaseError, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils.connection import ConnectionProxy
from sqlalchemy import Dialect
from sqlalchemy.dialects.mysql.base import MySQLDialect
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.dialects.sqlite.base import SQLiteDialect
from sqlalchemy.engine.default import DefaultDialect

from postresponse.core.current import current_exchange
from postresponse.exceptions import NoTransaction, ResponseStarted, UnsupportedDatabase
from postresponse.messaging.message import Message
from postresponse.messaging.tables import Tables
from postresponse.messaging.writing import no_table, tells_of_missing_table
from postresponse.unit_of_work.django_transaction import Unit

__all__ = ["dialect_of", "enlist_in_django", "statements_for"]

_KINDS: Final[dict[str, type[DefaultDialect]]] = {
    "sqlite": SQLiteDialect,
    "postgresql": PGDialect,
    "mysql": MySQLDialect,
}
_dialects: Final[dict[str, Dialect]] = {}

_MIGRATE: Final = (
    "put 'postresponse.integrations.django_outbox' into INSTALLED_APPS and run `manage.py migrate`; for a table with "
    "another name `postresponse outbox sql` prints the statements"
)


def enlist_in_django(outbox: Any, into: Any, message: Message) -> bool:
    """Enlist *message* in *into*, a unit of work or a connection of Django's; False if it is neither.

    Raises:
        NoTransaction: There is none on the connection, or it has not begun.
        NoTable: There is no table; where it is written at once.
        ResponseStarted: The unit of work is being ended.
    """
    if isinstance(into, Unit):
        _enlist_in_unit(outbox, into, message)
        return True
    connection = _connection_of(into)
    if connection is None:
        return False
    if not connection.in_atomic_block:
        raise NoTransaction(
            f"enlist() outside of a transaction: there is none on the connection {connection.alias!r} of this thread; "
            "put transaction.atomic() around it and what it tells of, and in an async view both into sync_to_async()"
        )
    unit = Unit.around(connection)
    if unit is not None:
        _enlist_in_unit(outbox, unit, message)
    else:
        _write(outbox, connection, [message])
    return True


def _connection_of(into: Any) -> Any:
    """Return the connection that *into* is, or stands for as `django.db.connection` does; else None."""
    if isinstance(into, ConnectionProxy):
        alias = getattr(into, "alias", None)
        found = connections[alias] if alias in connections.settings else None
        return found if found is not None and into == found else None  # the caches have proxies, too
    return into if isinstance(into, BaseDatabaseWrapper) else None


@dataclass(frozen=True, slots=True)
class _Write:
    """Writes messages of one outbox together, right before the COMMIT of a unit of work; one is equal to another."""

    outbox: Any

    def __call__(self, connection: Any, messages: list[Message]) -> None:
        _write(self.outbox, connection, messages)


def _enlist_in_unit(outbox: Any, unit: Unit, message: Message) -> None:
    if not unit.has_ended:
        connection = unit.write_now()
        if connection is not None:
            _write(outbox, connection, [message])
            return
        if unit.write_last(_Write(outbox), message):
            return
    # A callback of on_commit(), or a task beside the view.
    raise ResponseStarted("enlist()", current_exchange().state, "enlist before the unit of work ends")


def _write(outbox: Any, connection: Any, messages: Iterable[Message]) -> None:
    for statement, rows in outbox._writer.statements(dialect_of(connection.vendor), messages):
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement, rows[0]) if len(rows) == 1 else cursor.executemany(statement, rows)
        except DatabaseError as error:
            if tells_of_missing_table(connection.vendor, error.__cause__):
                raise no_table(outbox._writer.table, _MIGRATE) from error
            raise
    last = connection.run_on_commit[-1:]
    if not last or last[0][:2] != (set(connection.savepoint_ids), outbox._wake):
        connection.on_commit(outbox._wake)


def dialect_of(vendor: str) -> Dialect:
    """Return what writes statements for a cursor of Django's."""
    dialect = _dialects.get(vendor)
    if dialect is None:
        if vendor not in _KINDS:
            raise UnsupportedDatabase(f"an outbox needs SQLite, PostgreSQL, MariaDB or MySQL, and this is {vendor}")
        dialect = _KINDS[vendor](paramstyle="format")
        dialect.driver = "django"
        _dialects[vendor] = dialect
    return dialect


def statements_for(tables: Tables, connection: Any) -> list[str]:
    """Return the statements that make *tables* on the database of *connection*, a connection of Django's.

    Raises:
        UnsupportedDatabase: An outbox cannot work there.
    """
    return tables.statements(dialect_of(connection.vendor))
