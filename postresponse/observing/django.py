"""The commits of Django's connections: of `atomic()`, of `transaction.commit()`, and of statements in autocommit.

Django has no event for a commit, so `BaseDatabaseWrapper.commit` is wrapped, and `rollback` with it; each does what it
did, and raises what it raised. Statements are seen by an execute wrapper, as Django has them for that: it is put in
front of the others when a connection is opened, because `connection.execute_wrapper()` takes away the last one. In
autocommit, Django's own manner, each statement that writes commits by itself, and one behind the first byte is as late
as any other commit: nobody can be told if it fails.

Nothing here looks at a connection from another thread than its own, or sends a statement.
"""

import functools
from collections.abc import Callable
from typing import Any, Final

from django import conf
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

from postresponse.observing.commits import request_here, sent
from postresponse.unit_of_work.statements import is_kept, only_reads

__all__ = ["listen"]

_KEY: Final = "_postresponse_wrote"
"""The attribute that a connection has while its transaction has written."""


def listen() -> None:
    """Hear the commits of all connections that are opened from now on, and of those of this thread; called once."""
    BaseDatabaseWrapper.commit = _told(BaseDatabaseWrapper.commit)
    BaseDatabaseWrapper.rollback = _forgotten(BaseDatabaseWrapper.rollback)
    connection_created.connect(_on_connection, weak=False, dispatch_uid=__name__)
    if conf.settings.configured:
        for connection in connections.all(initialized_only=True):
            _on_connection(connection=connection)


def _on_connection(connection: Any, **signal: object) -> None:
    vars(connection).pop(_KEY, None)
    if _execute not in connection.execute_wrappers:
        connection.execute_wrappers.insert(0, _execute)


def _execute(execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: Any) -> Any:
    """Run a statement, as Django's execute wrappers do, and remember that it wrote."""
    result = execute(sql, params, many, context)
    if not (isinstance(sql, str) and only_reads(sql)):
        _wrote(context["connection"])
    return result


def _wrote(connection: Any) -> None:
    if not (connection.autocommit or is_kept(connection.connection)):
        vars(connection)[_KEY] = True
        return
    vars(connection).pop(_KEY, None)
    exchange = request_here()
    if exchange is not None:
        sent(exchange, "django", wrote=True).answered()


def _told(commit: Callable[[Any], None]) -> Callable[[Any], None]:
    @functools.wraps(commit)
    def told(connection: Any) -> None:
        # One that was open before anybody listened may have written.
        wrote = bool(vars(connection).pop(_KEY, _execute not in connection.execute_wrappers))
        exchange = request_here()
        nothing_follows = connection.connection is None or connection.in_atomic_block  # Django refuses
        if exchange is None or nothing_follows or not (wrote or exchange._settings.observers):
            commit(connection)
            return
        under_way = sent(exchange, "django", wrote=wrote)
        try:
            commit(connection)
        except BaseException as error:
            under_way.answered(error)
            raise
        under_way.answered()

    return told


def _forgotten(rollback: Callable[[Any], None]) -> Callable[[Any], None]:
    @functools.wraps(rollback)
    def forgotten(connection: Any) -> None:
        vars(connection).pop(_KEY, None)
        rollback(connection)

    return forgotten
