"""The commits of Django's connections: of `atomic()`, of `transaction.commit()`, and of statements in autocommit.

Django has no event for a commit, and none for a statement that all connections share. So `BaseDatabaseWrapper.commit`
and `rollback` are wrapped, and what a cursor runs statements with; each does what it did, and raises what it raised.
Nothing is registered with a connection: `on_commit` callbacks and execute wrappers are counted by whoever tests them.

In autocommit, Django's own manner, each statement that writes commits by itself, and one behind the first byte is as
late as any other commit: nobody can be told if it fails. Nothing here looks at a connection from another thread than
the one that uses it, or sends a statement.
"""

import functools
from collections.abc import Callable
from typing import Any, Final

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import CursorWrapper

from postresponse.observing.commits import Sent, harmless, request_here, sent
from postresponse.unit_of_work.statements import is_kept, only_reads

__all__ = ["listen"]

_KEY: Final = "_postresponse_wrote"
"""The attribute of a connection whose transaction has written: the driver's, which it may not have any more."""


def listen() -> None:
    """Hear the commits of all connections from now on; called once."""
    BaseDatabaseWrapper.commit = _commit_told(BaseDatabaseWrapper.commit)
    BaseDatabaseWrapper.rollback = _rollback_told(BaseDatabaseWrapper.rollback)
    for name in ("execute", "executemany", "callproc"):
        setattr(CursorWrapper, name, _statement_told(getattr(CursorWrapper, name)))


def _statement_told(run: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(run)
    def told(cursor: Any, statement: Any, *args: Any, **kwargs: Any) -> Any:
        result = run(cursor, statement, *args, **kwargs)
        if not (isinstance(statement, str) and only_reads(statement)):
            _wrote(cursor.db)
        return result

    return told


@harmless
def _wrote(connection: Any) -> None:
    driver = connection.connection
    if not (connection.autocommit or is_kept(driver)):
        vars(connection)[_KEY] = driver
        return
    vars(connection).pop(_KEY, None)
    exchange = request_here()
    if exchange is not None:
        sent(exchange, "django", wrote=True).answered()


def _commit_told(commit: Callable[[Any], None]) -> Callable[[Any], None]:
    @functools.wraps(commit)
    def told(connection: Any) -> None:
        under_way = _sent(connection)
        if under_way is None:
            commit(connection)
            return
        try:
            commit(connection)
        except BaseException as error:
            under_way.answered(error)
            raise
        under_way.answered()

    return told


@harmless
def _sent(connection: Any) -> Sent | None:
    driver, written = connection.connection, vars(connection).pop(_KEY, None)
    if driver is None or connection.in_atomic_block:  # Django sends nothing
        return None
    exchange = request_here()
    # What only read is told of to whoever listens anyway, and is nobody's trouble.
    if exchange is None or not (written is driver or exchange._settings.observers):
        return None
    return sent(exchange, "django", wrote=written is driver)


def _rollback_told(rollback: Callable[[Any], None]) -> Callable[[Any], None]:
    @functools.wraps(rollback)
    def told(connection: Any) -> None:
        vars(connection).pop(_KEY, None)
        rollback(connection)

    return told
