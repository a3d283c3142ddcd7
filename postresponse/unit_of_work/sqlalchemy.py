"""SQLAlchemy sessions as units of work, sync and async.

Lazy: the session is made when a handler first asks for it, and takes a connection when a statement first needs one. A
request that asks for none costs nothing, at begin and at commit.
"""

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Generic, TypeVar
from weakref import WeakSet

from sqlalchemy import Connection, Engine, ExceptionContext, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session

from postresponse.core.current import current_exchange
from postresponse.core.exchange import Exchange
from postresponse.exceptions import CommitInDoubt, CommitRefused, ConfigurationError, NoExchange

__all__ = ["AsyncSQLAlchemyUnitOfWork", "SQLAlchemyUnitOfWork"]

S = TypeVar("S", Session, AsyncSession)

# `event.contains` knows an engine by its id, which a later one may have again.
_listened_to: Final[WeakSet[Engine]] = WeakSet()

_FAILED: Final = "postresponse.failed"
_SWALLOWED: Final = (
    "a statement failed, its error was swallowed, and the database has given up the transaction; let the error "
    "through, put what may fail into session.begin_nested(), or roll back on purpose with doom()"
)
_READS: Final = ("select", "with", "show", "explain", "pragma", "values", "table")


class _Use:
    """What one session did since it was made or closed: seen by SQLAlchemy's events, with no reference back to it."""

    __slots__ = ("begun", "connections", "late", "wrote")

    def __init__(self) -> None:
        self.begun = False
        self.late = False
        self.wrote = False
        self.connections: list[Connection] = []

    def closed(self) -> None:
        self.begun = self.wrote = False
        self.late = True
        self.connections.clear()

    def on_begin(self, session: Session, transaction: object, connection: Connection) -> None:
        self.begun = True
        if connection in self.connections:  # a savepoint
            return
        self.connections.append(connection)
        connection.info.pop(_FAILED, None)
        if connection.engine not in _listened_to:
            _listened_to.add(connection.engine)
            event.listen(connection.engine, "handle_error", _on_error)
        if self.late:
            event.listen(connection, "before_cursor_execute", self.on_late_statement)

    def lost(self) -> list[Connection]:
        """The connections on which a statement failed and whose transaction may be lost with it."""
        return [connection for connection in self.connections if _FAILED in connection.info]

    def on_late_statement(
        self, connection: Connection, cursor: object, statement: str, parameters: object, context: Any, many: bool
    ) -> None:
        first = statement.lstrip("( \t\r\n")[:8].lower()
        self.wrote = self.wrote or context.isinsert or not first.startswith(_READS)


def _on_error(context: ExceptionContext) -> None:
    if context.connection is not None:
        context.connection.info[_FAILED] = context.original_exception


def _check(connections: list[Connection]) -> None:
    """Refuse to commit what the database has given up already, behind a statement whose error was swallowed.

    PostgreSQL answers such a COMMIT with a rollback and no error. MySQL and MariaDB roll back at a deadlock (1213), and
    COMMIT then keeps only what came after it.
    """
    for connection in connections:
        failed: BaseException | None = connection.info.pop(_FAILED)
        if connection.dialect.name == "postgresql":
            try:
                connection.exec_driver_sql("SELECT 1")
            except DBAPIError as error:
                raise CommitRefused(_SWALLOWED) from error
        elif connection.dialect.name in ("mysql", "mariadb") and failed is not None and failed.args[:1] == (1213,):
            raise CommitRefused(_SWALLOWED) from failed


def _check_answered(error: DBAPIError) -> None:
    """Tell a COMMIT whose answer was lost with the connection from one that was refused."""
    if error.connection_invalidated:
        raise CommitInDoubt("the connection was lost inside COMMIT; nobody knows whether it committed") from error


class _Unit(Generic[S]):
    """The session of one exchange; what both twins share."""

    __slots__ = ("_make", "_session", "_use", "_wanted")

    def __init__(self, make: Callable[[], S]) -> None:
        self._make: Callable[[], S] = make
        self._session: S | None = None
        self._wanted = False
        self._use = _Use()

    @property
    def session(self) -> S:
        self._wanted = True
        if self._session is None:
            self._session = self._make()
            sync = self._session.sync_session if isinstance(self._session, AsyncSession) else self._session
            event.listen(sync, "after_begin", self._use.on_begin)
        return self._session

    @property
    def touched(self) -> bool:
        return self._session is not None and (self._wanted or self._session.in_transaction())

    @property
    def active(self) -> bool:
        """False once the handler committed or rolled back itself and did nothing since."""
        return self._session is None or not self._use.begun or self._session.in_transaction()

    @property
    def changed(self) -> bool:
        session = self._session
        return session is not None and bool(self._use.wrote or session.new or session.dirty or session.deleted)

    def _closed(self) -> None:
        self._wanted = False
        self._use.closed()


class _SyncUnit(_Unit[Session]):
    __slots__ = ()

    def begin(self) -> None:
        """Nothing: the session begins with its first use."""

    def commit(self) -> None:
        _check(self._use.lost())
        self.session.flush()
        try:
            self.session.commit()
        except DBAPIError as error:
            _check_answered(error)
            raise

    def rollback(self) -> None:
        self.session.rollback()

    def close(self) -> None:
        self.session.close()
        self._closed()

    def invalidate(self) -> None:
        self.session.invalidate()
        self._closed()

    def sever(self) -> None:
        """Shut the sockets down under a call that hangs; it then fails, and returns."""
        for connection in list(self._use.connections):
            with suppress(Exception):
                _shut_down(connection.connection.dbapi_connection)


class _AsyncUnit(_Unit[AsyncSession]):
    __slots__ = ()

    async def begin(self) -> None:
        """Nothing: the session begins with its first use."""

    async def commit(self) -> None:
        if lost := self._use.lost():
            await self.session.run_sync(lambda _: _check(lost))
        await self.session.flush()
        try:
            await self.session.commit()
        except DBAPIError as error:
            _check_answered(error)
            raise

    async def rollback(self) -> None:
        await self.session.rollback()

    async def close(self) -> None:
        await self.session.close()
        self._closed()

    async def invalidate(self) -> None:
        await self.session.invalidate()
        self._closed()


def _shut_down(connection: Any) -> None:
    """Shut down the socket of a driver's connection: psycopg and mysqlclient have `fileno`, PyMySQL its socket."""
    own = getattr(connection, "_sock", None)
    if isinstance(own, socket.socket):
        own.shutdown(socket.SHUT_RDWR)
        return
    with socket.socket(fileno=os.dup(connection.fileno())) as duplicate:
        duplicate.shutdown(socket.SHUT_RDWR)


class SQLAlchemyUnitOfWork:
    """One `Session` a request, committed or rolled back as the middleware's policy says.

    Under ASGI its commit runs on a thread, never on the event loop.

    Args:
        sessionmaker: Makes a session: `sqlalchemy.orm.sessionmaker(engine)` or any function that returns one.

    Raises:
        ConfigurationError: *sessionmaker* is not a function, or makes async sessions.

    Example:
        >>> from sqlalchemy import create_engine
        >>> from sqlalchemy.orm import sessionmaker
        >>> db = SQLAlchemyUnitOfWork(sessionmaker(create_engine("sqlite://")))
    """

    is_async = False

    def __init__(self, sessionmaker: Callable[[], Session]) -> None:
        if isinstance(sessionmaker, async_sessionmaker):
            raise ConfigurationError("SQLAlchemyUnitOfWork: this makes async sessions; use AsyncSQLAlchemyUnitOfWork")
        self._make = _checked(sessionmaker, type(self).__name__)

    def __call__(self, exchange: Exchange) -> _SyncUnit:
        """Make the unit of work of *exchange*; the middleware calls it."""
        unit = exchange.units[self] = _SyncUnit(self._make)
        return unit

    @property
    def session(self) -> Session:
        """This request's session, made on first use.

        After the commit it works on in a new transaction, which is rolled back at the end of the response.

        Raises:
            NoExchange: There is no request, or its middleware has another unit of work.
        """
        unit: _SyncUnit = _unit_of(self)
        return unit.session


class AsyncSQLAlchemyUnitOfWork:
    """One `AsyncSession` a request, committed or rolled back as the middleware's policy says; for ASGI.

    Args:
        sessionmaker: Makes a session: `sqlalchemy.ext.asyncio.async_sessionmaker(engine)` or any function that
            returns one.

    Raises:
        ConfigurationError: *sessionmaker* is not a function.

    Example:
        >>> from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
        >>> db = AsyncSQLAlchemyUnitOfWork(async_sessionmaker(create_async_engine("sqlite+aiosqlite://")))
    """

    is_async = True

    def __init__(self, sessionmaker: Callable[[], AsyncSession]) -> None:
        self._make = _checked(sessionmaker, type(self).__name__)

    def __call__(self, exchange: Exchange) -> _AsyncUnit:
        """Make the unit of work of *exchange*; the middleware calls it."""
        unit = exchange.units[self] = _AsyncUnit(self._make)
        return unit

    @property
    def session(self) -> AsyncSession:
        """This request's session, made on first use.

        After the commit it works on in a new transaction, which is rolled back at the end of the response.

        Raises:
            NoExchange: There is no request, or its middleware has another unit of work.
        """
        unit: _AsyncUnit = _unit_of(self)
        return unit.session


def _checked(sessionmaker: Any, owner: str) -> Any:
    if isinstance(sessionmaker, Session | AsyncSession):
        raise ConfigurationError(f"{owner}: found one session for all requests; give what makes them, a sessionmaker")
    if not callable(sessionmaker):
        raise ConfigurationError(f"{owner}: expected a sessionmaker, found {sessionmaker!r}")
    return sessionmaker


def _unit_of(owner: Any) -> Any:
    unit = current_exchange().units.get(owner)
    if unit is None:
        raise NoExchange(
            f"this request's unit of work is not this {type(owner).__name__}; "
            "give it to the outermost PostResponseMiddleware as unit_of_work="
        )
    return unit
