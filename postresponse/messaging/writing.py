"""How messages are written: together, in one statement through the driver, right before the COMMIT of whoever enlisted.

What is collected dies with the transaction, or the savepoint, that it was enlisted in; what is written goes with it.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import groupby
from operator import attrgetter, itemgetter
from typing import Any, Final, NamedTuple
from weakref import WeakKeyDictionary, WeakSet

from sqlalchemy import (
    Connection,
    Dialect,
    Float,
    Insert,
    Table,
    bindparam,
    event,
    insert,
)
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, SessionTransaction
from sqlalchemy.pool import ConnectionPoolEntry, Pool

from postresponse.exceptions import NoTable, NoTransaction
from postresponse.messaging.clock import Moment, later, now
from postresponse.messaging.message import Message

__all__ = [
    "Writer",
    "collect_in_connection",
    "collect_in_session",
    "is_missing_table",
    "no_table",
    "tells_of_missing_table",
]

_KEY: Final = "postresponse.outbox"


class _Form(NamedTuple):
    """What the statement of a message looks like."""

    is_due: bool
    is_delayed: bool
    is_deduped: bool


class _Statement(NamedTuple):
    """A statement for one driver, and how the parameters of a message are given."""

    sql: str
    names: list[str] | None
    """What they are called; None where only their order counts."""
    read: Callable[[Message], tuple[Any, ...]]
    processors: list[tuple[int, Callable[[Any], Any]]]

    def parameters(self, message: Message) -> Any:
        values = list(self.read(message))
        for place, process in self.processors:
            values[place] = process(values[place])
        return tuple(values) if self.names is None else dict(zip(self.names, values, strict=True))


class Writer:
    """Writes messages into one table."""

    def __init__(self, table: Table) -> None:
        self.table: Table = table
        self._statements: dict[tuple[str, str, _Form], _Statement] = {}

    def write(self, connection: Connection, messages: Iterable[Message]) -> None:
        """Write *messages* in their order, as few statements as that takes.

        Raises:
            NoTable: There is none.
        """
        dialect = connection.dialect
        for statement, rows in self.statements(dialect, messages):
            try:
                connection.exec_driver_sql(statement, rows[0] if len(rows) == 1 else rows)
            except DBAPIError as error:
                if is_missing_table(dialect.name, error):
                    raise no_table(self.table) from error
                raise

    def statements(self, dialect: Dialect, messages: Iterable[Message]) -> Iterator[tuple[str, list[Any]]]:
        """Give the statements that write *messages* in their order, and the parameters of each one's rows."""
        for form, group in groupby(messages, _form_of):
            key = (dialect.name, dialect.driver, form)
            statement = self._statements.get(key)
            if statement is None:
                statement = self._statements[key] = self._made(dialect, form)
            yield statement.sql, list(map(statement.parameters, group))

    def _made(self, dialect: Any, form: _Form) -> _Statement:
        columns = self.table.c
        values: dict[str, Any] = {
            name: bindparam(name, type_=columns[name].type)
            for name in ("message_id", "destination", "name", "payload", "headers", "ordering_key")
        }
        values["created_at"] = values["due_at"] = now()
        if form.is_due:
            values["due_at"] = bindparam("due", type_=Moment())
        elif form.is_delayed:
            values["due_at"] = later(bindparam("delay", type_=Float()))
        made = _deduping(self.table, dialect.name) if form.is_deduped else insert(self.table)
        compiled: Any = made.values(values).inline().compile(dialect=dialect)
        names = compiled.positiontup or list(compiled.binds)
        processors = {
            name: bind.type.dialect_impl(dialect).bind_processor(dialect) for name, bind in compiled.binds.items()
        }
        processors |= {"headers": _headers, "delay": float}
        return _Statement(
            str(compiled),
            None if compiled.positiontup else names,
            attrgetter(*(_ATTRIBUTES.get(name, name) for name in names)),
            [(place, process) for place, name in enumerate(names) if (process := processors[name]) is not None],
        )


_ATTRIBUTES: Final = {"message_id": "id", "payload": "document"}


def _headers(headers: Mapping[str, str]) -> str | None:
    return json.dumps(dict(headers)) if headers else None


def _deduping(table: Table, name: str) -> Insert:
    """Return the INSERT that leaves alone what is there."""
    if name in ("mysql", "mariadb"):
        return mysql.insert(table).on_duplicate_key_update(message_id=table.c.message_id)
    kind: Any = postgresql if name == "postgresql" else sqlite
    made: Insert = kind.insert(table).on_conflict_do_nothing(index_elements=[table.c.message_id])
    return made


def _form_of(message: Message) -> _Form:
    return _Form(message.due is not None, message.delay > 0, message.dedupe_key is not None)


# -- what is collected ------------------------------------------------------------------------------------------------


class _Entry(NamedTuple):
    """A message, and in a session the transaction or savepoint that it dies with."""

    outbox: Any
    message: Message
    within: SessionTransaction | None = None


def _write_all(connection_of: Any, entries: list[_Entry]) -> None:
    for outbox, group in groupby(entries, itemgetter(0)):
        outbox._writer.write(connection_of(outbox), [entry.message for entry in group])


def collect_in_session(outbox: Any, session: Session, message: Message) -> None:
    """Have *session* write *message* right before it commits."""
    if not session.in_transaction():
        if not session.autobegin:
            raise NoTransaction("enlist() outside of a transaction: this session has autobegin off; call begin() first")
        session.begin()
    pending = session.info.get(_KEY)
    if pending is None:
        pending = session.info[_KEY] = _Pending()
    pending.entries.append(_Entry(outbox, message, session.get_nested_transaction() or session.get_transaction()))


class _Pending:
    """What a session is to write.

    Attributes:
        entries: In the order of their enlistment.
        written: The outboxes that were written to in the transaction.
        released: The savepoint that is being released.
    """

    __slots__ = ("entries", "released", "written")

    def __init__(self) -> None:
        self.entries: list[_Entry] = []
        self.written: set[Any] = set()
        self.released: Any = None

    def write(self, transaction: SessionTransaction) -> None:
        """Write all, in its order; left where it is until then, so that it is not lost if the commit is tried again."""
        # By the transaction: its session refuses while the block of a savepoint is being left.
        _write_all(lambda outbox: transaction.connection(None, **outbox._bind_arguments), self.entries)
        self.written.update(entry.outbox for entry in self.entries)
        self.entries.clear()


def _before_commit(session: Session) -> None:
    pending = session.info.get(_KEY)
    if pending is not None and pending.entries:
        # A session may be told to commit all while a savepoint is open, which is then released first; nothing tells
        # that case from the release alone. So what there is is written behind it, and never in it.
        pending.released = session.get_nested_transaction()
        transaction = session.get_transaction()
        if pending.released is None and transaction is not None:
            pending.write(transaction)


def _after_soft_rollback(session: Session, transaction: SessionTransaction) -> None:
    pending = session.info.get(_KEY)
    if pending is not None and pending.released is transaction:
        pending.released = None


def _after_transaction_end(session: Session, transaction: SessionTransaction) -> None:
    pending = session.info.get(_KEY)
    if pending is None:
        return
    if pending.entries and transaction is pending.released:
        parent, pending.released = transaction.parent, None
        pending.entries = [
            entry._replace(within=parent) if entry.within is transaction else entry for entry in pending.entries
        ]
        if parent is not None and not session.in_nested_transaction():
            pending.write(parent)
    elif pending.entries:
        pending.entries = [entry for entry in pending.entries if entry.within is not transaction]
    if transaction.parent is None and pending.written:
        written, pending.written = pending.written, set()
        for outbox in written:
            outbox._wake()


# Once, and for all sessions: a listener on each costs as much as the session.
event.listen(Session, "before_commit", _before_commit)
event.listen(Session, "after_soft_rollback", _after_soft_rollback)
event.listen(Session, "after_transaction_end", _after_transaction_end)


class _Collected:
    """What was enlisted in one connection, since its innermost savepoint was made: what came before is written then."""

    def __init__(self, connection: Connection) -> None:
        self.entries: list[_Entry] = []
        _tell_of(connection.engine.pool)
        for moment in ("commit", "prepare_twophase", "savepoint", "release_savepoint"):
            event.listen(connection, moment, self._write)
        for moment in ("rollback", "rollback_savepoint"):
            event.listen(connection, moment, self._forget)

    def _write(self, connection: Connection, *others: object) -> None:
        _write_all(lambda outbox: connection, self.entries)
        connection.info.setdefault(_KEY, set()).update(entry.outbox for entry in self.entries)
        self.entries.clear()

    def _forget(self, connection: Connection, *others: object) -> None:
        self.entries.clear()


_told_of: "Final[WeakSet[Pool]]" = WeakSet()


def _tell_of(pool: Pool) -> None:
    """Wake relays when a connection of *pool* comes back that has written: no event tells that a COMMIT is done."""
    if pool not in _told_of:
        _told_of.add(pool)
        event.listen(pool, "checkin", _on_checkin)


def _on_checkin(connection: object, record: ConnectionPoolEntry) -> None:
    for outbox in record.info.pop(_KEY, ()):
        outbox._wake()


_collected: "Final[WeakKeyDictionary[Connection, _Collected]]" = WeakKeyDictionary()


def collect_in_connection(outbox: Any, connection: Connection, message: Message) -> None:
    """Have *connection* write *message* right before it commits."""
    if not connection.in_transaction():
        raise NoTransaction("enlist() outside of a transaction: begin one on this connection, as engine.begin() does")
    if "AUTOCOMMIT" in (
        connection.get_execution_options().get("isolation_level"),
        getattr(connection.dialect, "_on_connect_isolation_level", None),
    ):
        raise NoTransaction("enlist() on a connection in autocommit: nothing would bind the message to what you write")
    collected = _collected.get(connection)
    if collected is None:
        collected = _collected[connection] = _Collected(connection)
    collected.entries.append(_Entry(outbox, message))


_BY_HAND: Final = (
    "`postresponse outbox sql` prints the statements that make it, and Outbox.alembic() a migration; in a test, "
    "metadata.create_all(engine) makes it"
)


def no_table(table: Table, way_out: str = _BY_HAND) -> NoTable:
    """What is raised where *table* does not exist."""
    return NoTable(f"there is no table {table.fullname}: {way_out}")


def is_missing_table(dialect: str, error: DBAPIError) -> bool:
    """Whether a statement failed since its table does not exist."""
    return tells_of_missing_table(dialect, error.orig)


def tells_of_missing_table(dialect: str, original: Any) -> bool:
    """Whether *original*, an error of the driver's, says that a table does not exist."""
    if dialect == "postgresql":
        return "42P01" in (getattr(original, "sqlstate", None), getattr(original, "pgcode", None))
    if dialect == "sqlite":
        return "no such table" in str(original)
    return bool(original.args) and original.args[0] == 1146
