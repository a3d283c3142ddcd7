"""One transaction of a session on one connection: what SQLAlchemy's events tell of it, and how its COMMIT ended.

The events are the engine's and heard once, whatever the number of sessions: a listener on each session or connection
would cost as much as the session.
"""

import re
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from typing import Any, Final
from weakref import WeakSet

from sqlalchemy import Connection, Dialect, Engine, ExceptionContext, event

from postresponse.unit_of_work.in_doubt import (
    Fate,
    Ticket,
    ask,
    foregone,
    is_answer_of_mysql,
    run,
    ticket_of,
    was_refused,
)
from postresponse.unit_of_work.statements import gave_up, is_kept, only_reads, worse_of

__all__ = ["Transaction", "listen", "transaction_on"]

_KEY: Final = "postresponse"

# What TwoPhase sends besides a COMMIT: behind it the connection is in no transaction, and nothing is committed.
_PUTS_ASIDE: Final = re.compile(
    r"(PREPARE TRANSACTION|ROLLBACK PREPARED|XA (START|END|PREPARE|ROLLBACK)) 'postresponse/"
)

# `event.contains` knows an engine by its id, which a later one may have again.
_listened_to: Final[WeakSet[Engine]] = WeakSet()
_listening: Final = threading.Lock()


class Transaction:
    """What one transaction on one connection did; the engine's events find it in the connection's `info`.

    Attributes:
        error: The error of a statement, the transient one of several; a copy.
        failed: Whether a statement failed, and the database may have given it up.
        running: Whether nothing was heard of the last statement; an error is not where an earlier listener raises.
        gave_up: Whether the database then rolled back what came before it.
        holds: Whether, behind the last statement, it had written and was still open.
        asks: Whether its ticket is asked for before COMMIT.
        is_alone: Whether the session is in this one only; else it is asked for whatever it did, to tell which wrote.
        kept: Whether a part was committed without COMMIT: in autocommit, or by a statement that does.
        sent: COMMIT was sent, or is about to be.
        refused: The database's answer was an error, or it was found to have rolled back.
        lost: There was no answer.
    """

    __slots__ = (
        "asks",
        "engine",
        "error",
        "failed",
        "gave_up",
        "holds",
        "is_alone",
        "kept",
        "lost",
        "refused",
        "running",
        "sent",
        "ticket",
        "wrote",
    )

    def __init__(self, connection: Connection, *, asks: bool) -> None:
        self.engine: Engine = connection.engine
        self.asks: bool = asks
        self.is_alone: bool = True
        self.error: BaseException | None = None
        self.failed: bool = False
        self.running: bool = False
        self.gave_up: bool = False
        self.holds: bool = False
        self.wrote: bool = False
        self.kept: bool = False
        self.sent: bool = False
        self.refused: bool = False
        self.lost: bool = False
        self.ticket: Ticket | None = None
        listen(connection.engine)
        connection.info[_KEY] = self

    @property
    def fate(self) -> Fate | None:
        """What became of it; None where it has to be looked up."""
        if self.lost:
            return foregone(self.ticket)
        return Fate.COMMITTED if self.sent and not self.refused else Fate.ABORTED

    @property
    def is_empty(self) -> bool:
        """Whether there was nothing in it to commit: as PostgreSQL says, or else by the look of its statements.

        By that only where nobody knows better, and on SQLite, where none that looks as if it only read can write; a
        function may elsewhere, and what that wrote is committed.
        """
        if self.ticket is not None:
            return self.ticket.id is None
        return not self.wrote and (self.lost or self.engine.dialect.name == "sqlite")

    def ask_anew(self) -> Fate | None:
        """Ask on a connection that is not of the pool: that may be used up, by this very transaction among others."""
        assert self.ticket is not None
        pool = self.engine.pool.recreate()
        try:
            with closing(pool.connect()) as connection:
                return ask(partial(run, connection), self.ticket)
        finally:
            pool.dispose()

    def on_error(self, context: ExceptionContext) -> None:
        error = context.original_exception
        if self.sent:
            told = not context.is_disconnect and context.sqlalchemy_exception is not None
            self.refused = told and _is_answer(context.dialect, error)
            self.lost = not self.refused
        self.failed, self.running = True, False
        connection = context.connection
        if connection is not None and not self.sent and not self.gave_up:
            driver = connection.connection
            self.gave_up = gave_up(error, driver.driver_connection, partial(run, driver), held=self.holds)
        if isinstance(error, Exception) and not self.lost:
            self.error = worse_of(self.error, context.sqlalchemy_exception or error)

    def on_success(self, connection: Connection, statement: str) -> None:
        self.running = False
        if not self.wrote:
            return
        idle = is_kept(connection.connection.driver_connection)
        self.holds = not idle
        self.kept = self.kept or (idle and _PUTS_ASIDE.match(statement) is None)

    def on_commit(self, connection: Connection) -> None:
        driver: Any = connection.connection
        in_transaction = getattr(driver, "autocommit", False) is not True
        wanted = self.asks and (self.wrote or not self.is_alone)
        if wanted and in_transaction and connection.dialect.name == "postgresql":
            self.ticket = ticket_of(partial(_query, connection), connection.info)
        self.sent = True

    def on_commit_failed(self, connection: Connection, error: BaseException) -> None:
        """Complete what was heard by what the commit raised, before the connection is given up.

        SQLAlchemy has kept the transaction as the connection's. Where it told of no error, that came before COMMIT, out
        of a listener behind ours; or out of one before ours, which made another of the driver's.
        """
        if self.sent and not (self.refused or self.lost) and connection.get_transaction() is not None:
            driver_error = _driver_error_in(error, connection.dialect)
            self.refused = driver_error is None or _is_answer(connection.dialect, driver_error)
            self.lost = not self.refused


def _driver_error_in(error: BaseException | None, dialect: Dialect) -> BaseException | None:
    """Find what the driver raised in what was made of it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, dialect.loaded_dbapi.Error):
            return error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None


def _is_answer(dialect: Dialect, error: BaseException) -> bool:
    """Whether this error of the driver's is the database's answer to COMMIT, and not of a connection that was lost."""
    name = dialect.name
    if name == "postgresql":
        return was_refused(error)
    if name == "sqlite":
        return hasattr(error, "sqlite_errorcode")
    if name in ("mysql", "mariadb"):
        return is_answer_of_mysql(error)
    return True


def _query(connection: Connection, statement: str) -> Any:
    """Run *statement* on the driver's connection, in a third of SQLAlchemy's time and unseen by its events."""
    with suppress(Exception):
        return run(connection.connection, statement)
    return connection.exec_driver_sql(statement).first()  # fails as well, and as SQLAlchemy knows it


def transaction_on(connection: Connection | None) -> Transaction | None:
    """Return the transaction of a unit of work that *connection* is in."""
    if connection is None or connection.closed or connection.invalidated:
        return None
    found: Transaction | None = connection.info.get(_KEY)
    return found


def _on_begin(connection: Connection) -> None:
    connection.info.pop(_KEY, None)  # of a session that had the connection before


def _on_statement(connection: Connection, cursor: object, statement: str, *others: object) -> None:
    transaction = transaction_on(connection)
    if transaction is not None:
        transaction.running = True
        transaction.wrote = transaction.wrote or not only_reads(statement)


def _behind_statement(connection: Connection, cursor: object, statement: str, *others: object) -> None:
    transaction = transaction_on(connection)
    if transaction is not None:
        transaction.on_success(connection, statement)


def _on_error(context: ExceptionContext) -> None:
    transaction = transaction_on(context.connection)
    if transaction is not None:
        transaction.on_error(context)


def _on_commit(connection: Connection) -> None:
    transaction = transaction_on(connection)
    if transaction is not None and not transaction.sent:
        transaction.on_commit(connection)


def _on_commit_prepared(connection: Connection, *others: object) -> None:
    transaction = transaction_on(connection)
    if transaction is not None:
        transaction.sent = True


_LISTENERS: Final[dict[str, Callable[..., None]]] = {
    "begin": _on_begin,
    "before_cursor_execute": _on_statement,
    "after_cursor_execute": _behind_statement,
    "handle_error": _on_error,
    "commit": _on_commit,
    "commit_twophase": _on_commit_prepared,
}


def listen(engine: Engine) -> None:
    """Hear the events of *engine* from now on, once.

    Best before it is used: SQLAlchemy changes a list that whoever has a connection meanwhile may be going through.
    """
    if engine in _listened_to:
        return
    with _listening:
        if engine not in _listened_to:
            for name, listener in _LISTENERS.items():
                event.listen(engine, name, listener)
            _listened_to.add(engine)  # last: nobody who finds it here is unheard
