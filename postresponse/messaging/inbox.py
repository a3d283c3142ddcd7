"""The inbox: what a consumer has handled, written in its own transaction, so that it handles nothing twice."""

import functools
from collections.abc import Awaitable, Callable, Coroutine
from datetime import timedelta
from typing import Any, TypeVar, overload

from sqlalchemy import Connection, Dialect, Insert, MetaData, Table, delete, insert
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.schema import CreateTable

from postresponse.exceptions import ConfigurationError
from postresponse.messaging.clock import later, now
from postresponse.messaging.delivery import Delivery
from postresponse.messaging.tables import inbox_table
from postresponse.messaging.writing import is_missing_table, no_table
from postresponse.work.checks import check_function, is_async, name_of

__all__ = ["Inbox", "once"]

S = TypeVar("S", Session, AsyncSession)


class Inbox:
    """The ids of the messages that each consumer has handled.

    Args:
        metadata: Where its table is made, so that your migrations find it; None for one of its own.
        name: What the table is called.
        schema: Where it stands; None for that of *metadata*.

    Raises:
        ConfigurationError: A value that an option cannot have.
    """

    def __init__(
        self, metadata: MetaData | None = None, *, name: str = "postresponse_inbox", schema: str | None = None
    ) -> None:
        if metadata is not None and not isinstance(metadata, MetaData):
            raise ConfigurationError(f"metadata: expected a sqlalchemy.MetaData, found {metadata!r}")
        if not isinstance(name, str) or not name:
            raise ConfigurationError(f"name: expected the name of a table, found {name!r}")
        self.table: Table = inbox_table(metadata or MetaData(), name, schema)

    def note(self, connection: Connection, consumer: str, delivery: Delivery) -> bool:
        """Write that *consumer* handles *delivery*, in the transaction of *connection*; False if it did before.

        Another transaction that does the same at the moment is waited for.

        Raises:
            NoTable: There is none.
        """
        dialect = connection.dialect.name
        values = {"consumer": consumer, "message_id": delivery.id, "handled_at": now()}
        try:
            result = connection.execute(_unless_there(self.table, dialect).values(values))
            return result.first() is not None if result.returns_rows else result.rowcount > 0
        except DBAPIError as error:
            if is_missing_table(dialect, error):
                raise no_table(self.table) from error
            raise

    def ddl(self, dialect: Dialect) -> str:
        """Return the statement that makes the table on the database of *dialect*: `engine.dialect`."""
        return f"{str(CreateTable(self.table).compile(dialect=dialect)).strip()};\n"

    def purge(self, connection: Connection, older_than: timedelta) -> int:
        """Forget what was handled longer ago, and return how much that was.

        Args:
            older_than: More than a message may take to come again: what is forgotten is handled once more.

        Raises:
            ConfigurationError: *older_than* is no timedelta above zero.
        """
        if not isinstance(older_than, timedelta) or older_than <= timedelta(0):
            raise ConfigurationError(f"older_than: expected a timedelta above zero, found {older_than!r}")
        old = self.table.c.handled_at < later(-older_than.total_seconds())
        return connection.execute(delete(self.table).where(old)).rowcount


def _unless_there(table: Table, dialect: str) -> Insert:
    if dialect in ("mysql", "mariadb"):
        # ON DUPLICATE KEY counts a row that it leaves as it was.
        return insert(table).prefix_with("IGNORE").execution_options(preserve_rowcount=True)
    kind: Any = postgresql if dialect == "postgresql" else sqlite
    # Not every driver of PostgreSQL's counts what an INSERT did.
    made: Insert = kind.insert(table).on_conflict_do_nothing().returning(table.c.message_id)
    return made


@overload
def once(
    sessions: sessionmaker[Session], *, inbox: Inbox, consumer: str | None = None
) -> Callable[[Callable[[Delivery, Session], Any]], Callable[[Delivery], None]]: ...
@overload
def once(
    sessions: async_sessionmaker[AsyncSession], *, inbox: Inbox, consumer: str | None = None
) -> Callable[
    [Callable[[Delivery, AsyncSession], Awaitable[Any]]], Callable[[Delivery], Coroutine[Any, Any, None]]
]: ...
def once(sessions: Any, *, inbox: Inbox, consumer: str | None = None) -> Any:
    """Have a handler run once for each message, in a transaction that also notes that it did.

    The handler receives the delivery and the session, which is committed behind it; if it raises, all is rolled back
    and the message may come again. What it does elsewhere is done again then. A message that is handled elsewhere at
    the same moment is waited for, as long as the database has one transaction wait for another.

    Args:
        sessions: Makes the sessions: a `sessionmaker`, or an `async_sessionmaker` for an async handler.
        inbox: Where it is noted.
        consumer: Who handles it; None for the name of the handler.

    Raises:
        ConfigurationError: *sessions* is none of the two, or is of the other kind than the handler.

    Example:
        >>> from sqlalchemy import create_engine
        >>> from sqlalchemy.orm import sessionmaker
        >>> @once(sessionmaker(create_engine("sqlite://")), inbox=Inbox())
        ... def book(delivery, session): ...
    """
    if not isinstance(sessions, sessionmaker | async_sessionmaker):
        raise ConfigurationError(f"once() takes a sessionmaker or an async_sessionmaker, found {sessions!r}")
    if not isinstance(inbox, Inbox):
        raise ConfigurationError(f"inbox: expected an Inbox, found {inbox!r}")

    def decorate(handler: Callable[..., Any]) -> Callable[..., Any]:
        check_function("once()", handler)
        name = name_of(handler) if consumer is None else consumer
        if not isinstance(name, str) or not 0 < len(name) <= 200:
            raise ConfigurationError(f"consumer: expected a name of 1 to 200 characters, found {name!r}")
        if is_async(handler) is not isinstance(sessions, async_sessionmaker):
            raise ConfigurationError(
                f"once(): {name} and its sessions are not of one kind: an async handler has an async_sessionmaker, "
                "and a sync one a sessionmaker"
            )
        if isinstance(sessions, async_sessionmaker):

            @functools.wraps(handler)
            async def awaited(delivery: Delivery) -> None:
                async with sessions.begin() as session:
                    connection = await session.connection()
                    if await connection.run_sync(inbox.note, name, delivery):
                        await handler(delivery, session)

            return awaited

        @functools.wraps(handler)
        def called(delivery: Delivery) -> None:
            with sessions.begin() as session:
                if inbox.note(session.connection(), name, delivery):
                    handler(delivery, session)

        return called

    return decorate
