"""DBOS as an outbox: its workflows are enqueued in the caller's own transaction, and nothing else has to run.

DBOS keeps its workflows in its system database. Where that is the application's own database, a workflow that is
enqueued in the transaction of what it tells of is there if, and only if, that commits: no table of ours, and no relay.
"""

from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from dbos import DBOSClient, EnqueueOptions, WorkflowSerializationFormat
from sqlalchemy import Connection, Dialect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from postresponse.exceptions import ConfigurationError, MessageRefused, NoTable, NoTransaction
from postresponse.messaging.message import Message
from postresponse.messaging.outbox import Enlisting, names_allowed
from postresponse.messaging.writing import is_missing_table

__all__ = ["DBOSOutbox"]

_DATABASES: Final = ("postgresql", "sqlite")
_TAKEN: Final = frozenset({"self", "conn_or_session", "options"})
"""Parameters of `enqueue_in_transaction`, which a workflow's arguments are given to by their names."""


class DBOSOutbox(Enlisting):
    """Messages that become workflows of DBOS's if, and only if, the transaction that enlists them commits.

    The destination of a message is the queue, its name the workflow's, and its id the workflow's: of two messages with
    the same dedupe key one workflow is run, ever. A payload that is a dictionary is the workflow's keyword arguments,
    None is no argument, and any other one is its only argument. They are written as JSON, whatever the serializer of
    the client is, and so is what the workflow returns; never as a pickle. Headers become the workflow's attributes. An
    ordering key is the key of a partition: on a queue with `partition_concurrency=1` workflows with the same one run
    one after the other, and each message needs one. When a workflow is due goes by the clock of the process that
    enlists it.

    It writes in a Session, AsyncSession, Connection or AsyncConnection of SQLAlchemy's, whatever its driver, that is in
    DBOS's system database.

    Args:
        client: DBOS's; made with `lazy=True` it opens no connection of its own.
        allow: The names that each destination takes, as `Outbox` has it.
        max_size: Bytes that the document of one message may have.

    Raises:
        ConfigurationError: A value that an option cannot have.

    Example:
        >>> client = DBOSClient(system_database_url="postgresql://127.0.0.1/shop", lazy=True)
        >>> outbox = DBOSOutbox(client, {"mail": ["send_receipt"]})
    """

    def __init__(self, client: DBOSClient, allow: Mapping[str, Collection[str]], *, max_size: int = 64 * 1024) -> None:
        if not isinstance(client, DBOSClient):
            raise ConfigurationError(f"client: expected a dbos.DBOSClient, found {client!r}")
        super().__init__(names_allowed(allow), max_size)
        self._writer = _Workflows(client)

    def _check_name(self, message: Message) -> None:
        super()._check_name(message)
        _, keywords = _arguments(message.payload)
        if taken := _TAKEN & keywords.keys():
            raise MessageRefused(f"payload: DBOS takes {min(taken)!r} for itself; call the argument something else")

    def _enlist_in_session(self, session: Session, message: Message) -> None:
        _check_database(session.get_bind().dialect)
        super()._enlist_in_session(session, message)

    def _enlist_in_connection(self, connection: Connection | None, message: Message) -> None:
        if connection is not None:
            _check_database(connection.dialect)
        super()._enlist_in_connection(connection, message)


def _check_database(dialect: Dialect) -> None:
    if dialect.name not in _DATABASES:
        raise NoTransaction(
            f"into: DBOS's workflows are in PostgreSQL or SQLite, and this is {dialect.name}; give a session or a "
            "connection in its system database"
        )


class _Workflows:
    """Writes messages as workflows."""

    def __init__(self, client: DBOSClient) -> None:
        self._client = client

    def write(self, connection: Connection, messages: Iterable[Message]) -> None:
        """Write *messages* in their order.

        Raises:
            NoTable: DBOS's tables are missing.
        """
        try:
            for message in messages:
                arguments, keywords = _arguments(message.payload)
                self._client.enqueue_in_transaction(connection, _options(message), *arguments, **keywords)
        except DBAPIError as error:
            if is_missing_table(connection.dialect.name, error):
                raise NoTable(
                    "DBOS's tables are not in this database: give its URL as system_database_url of DBOS's "
                    "configuration, and `dbos migrate` makes them"
                ) from error
            raise


def _arguments(payload: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(payload, dict):
        return (), payload
    return (() if payload is None else (payload,)), {}


def _options(message: Message) -> EnqueueOptions:
    options: EnqueueOptions = {
        "workflow_name": message.name,
        "queue_name": message.destination,
        "workflow_id": str(message.id),
        "serialization_type": WorkflowSerializationFormat.PORTABLE,
    }
    delay = message.delay
    if message.due is not None:
        delay = (message.due - datetime.now(UTC)).total_seconds()
    if delay > 0:
        options["delay_seconds"] = delay
    if message.ordering_key is not None:
        options["queue_partition_key"] = message.ordering_key
    if message.headers:
        options["attributes"] = dict(message.headers)
    return options
