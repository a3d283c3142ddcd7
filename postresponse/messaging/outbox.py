"""The outbox: what enlists a message in the transaction of whoever writes what it tells of."""

import sys
from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final, Protocol
from uuid import UUID
from weakref import WeakSet

from sqlalchemy import Connection, Dialect, MetaData
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session

from postresponse.core.current import current, current_exchange
from postresponse.core.log import logger
from postresponse.core.policy import did_you_mean
from postresponse.core.trace import EnlistedMessage
from postresponse.exceptions import (
    ConfigurationError,
    MessageRefused,
    NoTransaction,
    NoUnitOfWork,
    ResponseStarted,
)
from postresponse.messaging.message import Message
from postresponse.messaging.tables import Tables
from postresponse.messaging.writing import Writer, collect_in_connection, collect_in_session
from postresponse.unit_of_work.sqlalchemy_transaction import transaction_on
from postresponse.work.checks import check_count

__all__ = ["Enlisting", "Outbox", "WritesMessages", "names_allowed"]


_SCOPED: Final = (scoped_session, async_scoped_session)


class WritesMessages(Protocol):
    """What writes the messages of an outbox."""

    def write(self, connection: Connection, messages: Iterable[Message]) -> None:
        """Write *messages* in their order, in the transaction of *connection*."""


class Wakeable(Protocol):
    """What sleeps until there are messages."""

    def wake(self) -> None:
        """There may be some."""


class Enlisting:
    """What all outboxes have in common: which messages they take, and whose transaction a message belongs to.

    Args:
        allow: What `names_allowed` made of the names that each destination takes.
        max_size: Bytes that the document of one message may have.

    Raises:
        ConfigurationError: A value that an option cannot have.
    """

    _writer: WritesMessages
    _bind_arguments: Mapping[str, Any] = MappingProxyType({})
    """What a session with several engines is asked for the right one by."""

    def __init__(self, allow: Mapping[str, frozenset[str]], max_size: int) -> None:
        self.allow: Mapping[str, frozenset[str]] = allow
        self.max_size: int = check_count("max_size", max_size)

    def enlist(self, message: Message, /, *, into: Any = None) -> UUID:
        """Send *message* once the transaction has committed; return its id.

        It is written right before the COMMIT, and an error of the database comes out of that. In Django it is written
        at once behind a savepoint, as `atomic()` makes them, and where no unit of work is around the connection.

        Args:
            into: A Session, AsyncSession, Connection or AsyncConnection of SQLAlchemy's, or a connection of Django's;
                None for the unit of work of the current request.

        Raises:
            MessageRefused: It is too large, or its destination or its name is not allowed.
            NoExchange: There is no request, and *into* was not given.
            NoTransaction: There is no transaction that it could belong to.
            ResponseStarted: The unit of work of the request is being ended or has ended.
        """
        self._check(message)
        if into is None:
            into = self._current()
        elif isinstance(into, _SCOPED):
            into = into()
        if isinstance(into, Session):
            self._enlist_in_session(into, message)
        elif isinstance(into, AsyncSession):
            self._enlist_in_session(into.sync_session, message)
        elif isinstance(into, Connection):
            self._enlist_in_connection(into, message)
        elif isinstance(into, AsyncConnection):
            self._enlist_in_connection(into.sync_connection, message)
        else:
            self._enlist_elsewhere(into, message)
        exchange = current.get()
        if exchange is not None and exchange._settings.observers:
            exchange._note(EnlistedMessage(str(message.id), message.destination, message.name))
        return message.id

    def _check(self, message: Message) -> None:
        if not isinstance(message, Message):
            raise MessageRefused(f"enlist() takes a Message, found {message!r}")
        self._check_name(message)
        size = len(message.document)
        if size > self.max_size:
            raise MessageRefused(
                f"payload: {size} bytes are over max_size={self.max_size}; store them, and send where they are"
            )

    def _check_name(self, message: Message) -> None:
        names = self.allow.get(message.destination)
        if names is None:
            raise MessageRefused(
                f"destination: this outbox has no {message.destination!r}"
                f"{did_you_mean(message.destination, self.allow)}; it has {', '.join(map(repr, self.allow))}"
            )
        if message.name not in names:
            raise MessageRefused(
                f"name: {message.destination!r} takes no {message.name!r}{did_you_mean(message.name, names)}; "
                "allow= of the Outbox lists what it takes"
            )

    def _current(self) -> Any:
        """What the current request's messages are enlisted in."""
        exchange = current_exchange()
        if exchange._unit is None:
            raise NoUnitOfWork(
                "enlist() needs a unit of work, and this middleware only observes; give it unit_of_work="
            )
        if exchange._unit_ended:
            raise ResponseStarted("enlist()", exchange.state, "enlist before the unit of work ends")
        found = [unit for unit in exchange.units.values() if hasattr(type(unit), "enlists_in")]
        if len(found) != 1:
            raise NoTransaction(
                f"enlist() finds {len(found) or 'no'} transactions in this unit of work that it could write in; "
                "give it into=, a session or a connection"
            )
        return found[0].enlists_in

    def _enlist_in_connection(self, connection: Connection | None, message: Message) -> None:
        if connection is None:
            raise NoTransaction("enlist() outside of a transaction: this connection was not started")
        if transaction_on(connection) is not None:
            raise NoTransaction("enlist() on the connection of a session of a unit of work: give it that session")
        collect_in_connection(self, connection, message)

    def _enlist_in_session(self, session: Session, message: Message) -> None:
        collect_in_session(self, session, message)

    def _enlist_elsewhere(self, into: Any, message: Message) -> None:
        """Enlist in what is not of SQLAlchemy's."""
        raise NoTransaction(
            f"into: expected a Session, AsyncSession, Connection or AsyncConnection of SQLAlchemy's, found {into!r}"
        )

    def _wake(self) -> None:
        """A transaction that enlisted here is over."""


def names_allowed(allow: Any) -> Mapping[str, frozenset[str]]:
    """Check the names that each destination takes.

    Raises:
        ConfigurationError: They are none, or no names.
    """
    if not isinstance(allow, Mapping) or not allow:
        raise ConfigurationError(f"allow: expected the names that each destination takes, found {allow!r}")
    for destination, names in allow.items():
        if isinstance(names, str) or not isinstance(names, Collection) or not names:
            raise ConfigurationError(f"allow: expected a collection of names for {destination!r}, found {names!r}")
        for each in names:
            Message(destination, each)
    return MappingProxyType({destination: frozenset(names) for destination, names in allow.items()})


class Outbox(Enlisting):
    """Messages that are sent if, and only if, the transaction that enlists them commits.

    They are collected, and written in one statement right before its COMMIT. A `Relay` sends them from there, at least
    once, under one id, as long as the database keeps its data and a relay runs.

    Args:
        allow: The names that each destination takes; a name that is not among them is refused where it is enlisted,
            and a relay leaves it alone.
        metadata: Where the tables are made, so that your migrations find them; None for one of its own.
        name: What the table is called.
        schema: Where it stands; None for that of *metadata*.
        max_size: Bytes that the document of one message may have.

    Raises:
        ConfigurationError: A value that an option cannot have.

    Example:
        >>> outbox = Outbox({"mail": ["send_receipt"]}, MetaData())
    """

    def __init__(
        self,
        allow: Mapping[str, Collection[str]],
        metadata: MetaData | None = None,
        *,
        name: str = "postresponse_outbox",
        schema: str | None = None,
        max_size: int = 64 * 1024,
    ) -> None:
        super().__init__(names_allowed(allow), max_size)
        if metadata is not None and not isinstance(metadata, MetaData):
            raise ConfigurationError(f"metadata: expected a sqlalchemy.MetaData, found {metadata!r}")
        self.tables: Tables = Tables(metadata or MetaData(), name, schema)
        self._writer: Writer = Writer(self.tables.waiting)
        self._bind_arguments = {"clause": self.tables.waiting}
        self._listeners: WeakSet[Wakeable] = WeakSet()

    def ddl(self, dialect: Dialect) -> str:
        """Return the statements that make the tables on the database of *dialect*: `engine.dialect`."""
        return self.tables.ddl(dialect)

    def alembic(self, dialect: Dialect) -> str:
        """Return the body of an Alembic migration that makes and drops the tables, for the database of *dialect*."""
        return self.tables.alembic(dialect)

    def wakes(self, relay: "Wakeable") -> None:
        """Call *relay*'s `wake`, from whatever thread, when a transaction that enlisted here is over; held weakly."""
        self._listeners.add(relay)

    def _enlist_elsewhere(self, into: Any, message: Message) -> None:
        if "django.db" in sys.modules:  # else there is no connection of its either
            from postresponse.messaging.django_connection import enlist_in_django

            if enlist_in_django(self, into, message):
                return
        super()._enlist_elsewhere(into, message)

    def _wake(self) -> None:
        for relay in list(self._listeners):
            try:
                relay.wake()
            except Exception as error:  # the transaction is over, and whoever ended it has no part in this
                logger.error("%r could not be woken", relay, exc_info=error)
