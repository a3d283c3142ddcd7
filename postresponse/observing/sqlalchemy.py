"""The commits of SQLAlchemy's engines, sync and async, as its own events tell of them.

The events are heard on the classes, so on every engine that there is or will be. `commit` is sent right before COMMIT.
That it failed is told by `handle_error`; that it did not, by what comes next on the connection: it goes back to its
pool, which for a session and for `engine.begin()` is at once, or begins another transaction.

A transaction has written if it ran a statement that does not look as if it only read. Such a statement is a commit by
itself where the driver's connection says that it is in no transaction behind it: in autocommit, and DDL where a
database commits that by itself.
"""

import re
from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import Connection, Engine, ExceptionContext, event
from sqlalchemy.pool import Pool

from postresponse.observing.commits import Sent, harmless, request_here, sent
from postresponse.unit_of_work.statements import is_kept, only_reads

__all__ = ["listen"]

_KEY: Final = "postresponse.observing"
"""Under which a connection's `info` has what its transaction did: True once it wrote, and then the commit sent."""


# What a two-phase commit sends besides COMMIT: behind it the connection is in no transaction, and nothing is committed.
_PUTS_ASIDE: Final = re.compile(r"\s*(PREPARE TRANSACTION|ROLLBACK|XA (BEGIN|START|END|PREPARE|ROLLBACK))\b")


def listen() -> None:
    """Hear the commits of all engines from now on; called once.

    Best before any of them is used: SQLAlchemy adds to lists that another thread may be going through.
    """
    for name, listener in _LISTENERS.items():
        event.listen(Engine, name, harmless(listener))
    event.listen(Pool, "reset", harmless(_on_reset))


def _on_begin(connection: Connection) -> None:
    _answered(connection.info.pop(_KEY, None))


def _on_statement(connection: Connection, cursor: object, statement: str, *others: object) -> None:
    if only_reads(statement) or _PUTS_ASIDE.match(statement):
        return
    info = connection.info
    if isinstance(info.get(_KEY), Sent):  # the statement that commits what was prepared
        info.pop(_KEY).answered()
        return
    if not is_kept(connection.connection.driver_connection):
        info[_KEY] = True
        return
    info.pop(_KEY, None)
    exchange = request_here()
    if exchange is not None:
        sent(exchange, "sqlalchemy", wrote=True).answered()


def _on_commit(connection: Connection, *others: object) -> None:
    info = connection.info
    wrote = info.pop(_KEY, None) is True
    exchange = request_here()
    # What only read is told of to whoever listens anyway, and is nobody's trouble.
    if exchange is not None and (wrote or exchange._settings.observers):
        info[_KEY] = sent(exchange, "sqlalchemy", wrote=wrote)


def _on_error(context: ExceptionContext) -> None:
    connection = context.connection
    if connection is None or connection.closed or connection.invalidated:
        return
    if isinstance(connection.info.get(_KEY), Sent):
        connection.info.pop(_KEY).answered(context.sqlalchemy_exception or context.original_exception)


def _on_reset(driver: object, record: Any, state: object) -> None:
    _answered(record.info.pop(_KEY, None))


def _answered(found: Sent | bool | None) -> None:
    if isinstance(found, Sent):
        found.answered()


_LISTENERS: Final[dict[str, Callable[..., None]]] = {
    "begin": _on_begin,
    "after_cursor_execute": _on_statement,
    "commit": _on_commit,
    "commit_twophase": _on_commit,
    "handle_error": _on_error,
}
