"""COMMIT on one of Django's connections, outside of `atomic()`, and what became of it where the connection is lost."""

from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from typing import Any, Final
from weakref import WeakKeyDictionary

from django.db import DatabaseError, Error, connections

from postresponse.unit_of_work.in_doubt import (
    Fate,
    Ticket,
    ask,
    foregone,
    is_answer_of_mysql,
    judge,
    look_up,
    run,
    ticket_of,
    was_refused,
)

__all__ = ["send_commit", "ticket_on"]

_memories: Final[WeakKeyDictionary[Any, dict[Any, Any]]] = WeakKeyDictionary()
"""What is kept of each driver's connection: whether its server gives tickets."""


def ticket_on(connection: Any) -> Ticket | None:
    """Ask for the ticket of the transaction on *connection*, unseen by Django's execute wrappers and query counts."""
    if connection.vendor != "postgresql":
        return None
    driver = connection.connection
    with connection.wrap_database_errors:
        return ticket_of(partial(run, driver), _memories.setdefault(driver, {}))


def send_commit(connection: Any, ticket: Ticket | None) -> None:
    """COMMIT, and return if it committed, whatever became of the answer.

    Raises:
        CommitInDoubt: The connection was lost, and nobody knows.
        CommitRefused: The connection was lost, and the transaction rolled back.
        DatabaseError: The database refused.
    """
    try:
        connection.commit()
    except Exception as error:
        if _is_answer(connection, error):
            with _closed_on_error(connection):
                connection.rollback()
                connection.set_autocommit(True)
            raise
        with suppress(Error):
            connection.close()
        judge(_fate_of(ticket, connection.alias), error)
    else:
        with _closed_on_error(connection):
            connection.set_autocommit(True)


@contextmanager
def _closed_on_error(connection: Any) -> Iterator[None]:
    """Close the connection if it fails now: how the transaction ended is known already."""
    try:
        yield
    except Error:
        with suppress(Error):
            connection.close()


def _is_answer(connection: Any, error: Exception) -> bool:
    """Whether *error* is the database's answer to COMMIT, and not what comes of a connection that is lost."""
    if not isinstance(error, DatabaseError):
        return False
    if connection.vendor == "postgresql":
        return was_refused(error.__cause__ or error)
    if connection.vendor == "mysql":  # one of its clients connects anew when asked whether it is usable
        return is_answer_of_mysql(error)
    return bool(connection.is_usable())


def _fate_of(ticket: Ticket | None, alias: str) -> Fate:
    fate = foregone(ticket)
    if fate is not None or ticket is None:
        return fate or Fate.UNKNOWN
    return look_up(partial(_ask_anew, alias, ticket))


def _ask_anew(alias: str, ticket: Ticket) -> Fate | None:
    """Ask on a connection that is no thread's and not of Django's pool, which may be used up."""
    backend = connections.create_connection(alias)
    with closing(backend.Database.connect(**backend.get_connection_params())) as driver:
        return ask(partial(run, driver), ticket)
