"""SQLAlchemy sessions as units of work, sync and async.

Lazy: the session is made when a handler first asks for it, and takes a connection when a statement first needs one. A
request that asks for none costs nothing, at begin and at commit.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, Final, Generic, TypeVar

from sqlalchemy import Engine, event
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker
from sqlalchemy.orm import Session, scoped_session
from sqlalchemy.util import greenlet_spawn

from postresponse.core.current import current_exchange
from postresponse.core.exchange import Exchange
from postresponse.exceptions import ConfigurationError, NoExchange
from postresponse.shielding import time_limit
from postresponse.unit_of_work.in_doubt import alook_up, look_up
from postresponse.unit_of_work.severing import shut_down
from postresponse.unit_of_work.sqlalchemy_session import Use, check_kept
from postresponse.unit_of_work.sqlalchemy_transaction import listen

__all__ = ["AsyncSQLAlchemyUnitOfWork", "SQLAlchemyUnitOfWork"]


HANG_UP: Final = 1.0
"""Seconds for an async driver to close a connection that is lost; some say goodbye first, and wait for an answer."""

S = TypeVar("S", Session, AsyncSession)


class _Unit(Generic[S]):
    """The session of one exchange; what both twins share."""

    __slots__ = ("_make", "_session", "_use", "_wanted")

    def __init__(self, make: Callable[[], S]) -> None:
        self._make: Callable[[], S] = make
        self._session: S | None = None
        self._wanted = False
        self._use = Use()

    @property
    def session(self) -> S:
        self._wanted = True
        if self._session is None:
            self._session = self._make()
            sync = self._session.sync_session if isinstance(self._session, AsyncSession) else self._session
            event.listen(sync, "after_begin", self._use.on_begin)
        return self._session

    @property
    def enlists_in(self) -> S:
        """What an outbox writes a message in."""
        return self.session

    @property
    def touched(self) -> bool:
        return self._session is not None and (self._wanted or self._session.in_transaction())

    @property
    def active(self) -> bool:
        """False once the handler committed or rolled back itself and did nothing since."""
        return self._session is None or not self._use.transactions or self._session.in_transaction()

    @property
    def changed(self) -> bool:
        session = self._session
        wrote = any(each.wrote for each in self._use.transactions.values())
        return session is not None and bool(wrote or session.new or session.dirty or session.deleted)

    @property
    def statement_error(self) -> BaseException | None:
        """The error of a statement in its transaction, the transient one of several, also if it was caught; a copy."""
        return self._use.error

    @property
    def committed(self) -> bool:
        """True once a transaction of the session may have been committed, by the handler too: never run it again."""
        return self._use.committed

    def _closed(self) -> None:
        self._wanted = False
        self._use.closed()


class _SyncUnit(_Unit[Session]):
    __slots__ = ()

    def begin(self) -> None:
        """Nothing: the session begins with its first use."""

    def flush(self) -> None:
        """Send what the session holds, and refuse to commit what the database has given up."""
        check_kept(self._use.lost())
        self.session.flush()

    def commit(self) -> None:
        self.flush()
        self._use.on_commit()
        try:
            self.session.commit()
        except Exception as error:
            self._use.on_commit_failed(error)
            transactions = self._use.transactions.values()
            if any(each.lost for each in transactions):
                with suppress(Exception):
                    self.session.invalidate()
            if not self._use.is_committed([each.fate or look_up(each.ask_anew) for each in transactions], error):
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
        for connection in list(self._use.transactions):
            with suppress(Exception):
                shut_down(connection.connection.dbapi_connection)


class _AsyncUnit(_Unit[AsyncSession]):
    __slots__ = ()

    async def begin(self) -> None:
        """Nothing: the session begins with its first use."""

    async def flush(self) -> None:
        """Send what the session holds, and refuse to commit what the database has given up."""
        if lost := self._use.lost():
            await self.session.run_sync(lambda _: check_kept(lost))
        await self.session.flush()

    async def commit(self) -> None:
        await self.flush()
        self._use.on_commit()
        try:
            await self.session.commit()
        except Exception as error:
            self._use.on_commit_failed(error)
            transactions = self._use.transactions.values()
            if any(each.lost for each in transactions):
                with suppress(Exception):
                    async with time_limit(HANG_UP):
                        await self.session.invalidate()
            fates = [each.fate or await alook_up(partial(greenlet_spawn, each.ask_anew)) for each in transactions]
            if not self._use.is_committed(fates, error):
                raise

    async def rollback(self) -> None:
        await self.session.rollback()

    async def close(self) -> None:
        await self.session.close()
        self._closed()

    async def invalidate(self) -> None:
        await self.session.invalidate()
        self._closed()


class SQLAlchemyUnitOfWork:
    """One `Session` a request, committed or rolled back as the middleware's policy says.

    Under ASGI its commit runs on a thread, never on the event loop.

    A connection lost inside COMMIT is no guess: on PostgreSQL (13 or newer) the transaction is looked up, within
    seconds, on a new connection of the same engine. It committed, and the response stands; it was rolled back
    (`CommitRefused`); or nobody can tell (`CommitInDoubt`), as on other databases. For that each commit of what may
    have written asks for the transaction's id first, in one round trip.

    Args:
        sessionmaker: Makes a session: `sqlalchemy.orm.sessionmaker(engine)` or any function that returns one.

    Raises:
        ConfigurationError: *sessionmaker* is not a function, makes async sessions, or is a `scoped_session`: give its
            `session_factory`.

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

    A connection lost inside COMMIT is looked up as for `SQLAlchemyUnitOfWork`.

    Args:
        sessionmaker: Makes a session: `sqlalchemy.ext.asyncio.async_sessionmaker(engine)` or any function that
            returns one.

    Raises:
        ConfigurationError: *sessionmaker* is not a function, or is an `async_scoped_session`: give its
            `session_factory`.

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
    if isinstance(sessionmaker, scoped_session | async_scoped_session):
        # It gives the same session to all who ask, and `remove()` ends that behind the unit of work's back.
        raise ConfigurationError(
            f"{owner}: found a registry of sessions ({type(sessionmaker).__name__}); give what makes them, its "
            "`session_factory`, and use this unit of work's `session` in the place of the registry"
        )
    if not callable(sessionmaker):
        raise ConfigurationError(f"{owner}: expected a sessionmaker, found {sessionmaker!r}")
    for engine in _engines_of(sessionmaker):
        listen(engine)
    return sessionmaker


def _engines_of(sessionmaker: Any) -> Iterator[Engine]:
    """Give the engines that *sessionmaker* tells of; others are met with a session's first statement."""
    options = getattr(sessionmaker, "kw", None)
    if isinstance(options, dict):
        for bind in (options.get("bind"), *(options.get("binds") or {}).values()):
            found = getattr(bind, "sync_engine", bind)  # an async one
            if isinstance(found, Engine):
                yield found


def _unit_of(owner: Any) -> Any:
    unit = current_exchange().units.get(owner)
    if unit is None:
        raise NoExchange(
            f"this request's unit of work is not this {type(owner).__name__}; "
            "give it to the outermost PostResponseMiddleware as unit_of_work="
        )
    return unit
