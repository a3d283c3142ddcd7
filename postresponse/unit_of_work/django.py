"""Django's transactions as a unit of work, under WSGI and ASGI alike.

Two signals of Django's bound it. At `request_started` a receiver of Django's closes each connection that is in a
transaction, so a transaction begun outside of the handler would be lost before the view runs; at `request_finished`,
which `response.close()` fires, it does so again. The transaction therefore begins in a receiver of `request_started`
that stays behind all others, and the middleware ends it before it closes the response. (Beginning it with the first
query is too late: a view's own `atomic()` would be the outermost block, and commit by itself.)

Under ASGI the sync code of one request, its database connections included, lives on one thread that asgiref keeps for a
`ThreadSensitiveContext`. Django enters one inside of its handler and leaves it with it; ours is entered around that
one, so that a request that was cancelled, or raised, is still rolled back on the thread that holds its connection.
"""

import itertools
import threading
from typing import Any, Final

from asgiref.sync import SyncToAsync, ThreadSensitiveContext
from django.conf import settings
from django.core.signals import request_started
from django.db import DEFAULT_DB_ALIAS, connections

from postresponse.core.current import current
from postresponse.core.exchange import Exchange
from postresponse.core.policy import did_you_mean
from postresponse.exceptions import ConfigurationError
from postresponse.unit_of_work.django_transaction import AsyncUnit, SyncUnit, Unit

__all__ = ["DjangoUnitOfWork", "begin_units"]


class DjangoUnitOfWork:
    """One `transaction.atomic()` around each request, committed or rolled back as the middleware's policy says.

    For `get_wsgi_application()` and `get_asgi_application()`, with sync and async views. It takes the place of
    ATOMIC_REQUESTS, which may stay on: a view's transaction is then a savepoint in this one, as is each `atomic()` of
    its own. The connection is opened when the request starts; no statement is sent before the view's first. Where it
    cannot be opened, the view's first query raises that error, and a request without one is answered as ever.

    `transaction.on_commit` callbacks run right after this commit, which in head and buffered mode is before the first
    byte; one that raises is logged and the others run. A transaction that can only be rolled back, because an error of
    the database was caught inside it, is a failed commit (`CommitRefused`) and not a silent rollback.

    A connection lost inside COMMIT is no guess: on PostgreSQL the transaction is looked up, within seconds, on a new
    connection. It committed, and the response stands; it was rolled back (`CommitRefused`); or nobody can tell
    (`CommitInDoubt`), as on other databases. For that each commit of what may have written asks for the transaction's
    id first, in one round trip.

    In head mode a streaming body runs after the commit, in autocommit, as it does with ATOMIC_REQUESTS: what it writes
    late commits by itself. Under WSGI its first part is made before the commit. Give a view whose body needs the
    transaction `commit_policy("buffered")`. Under ASGI, hooks that use the ORM have to be async. Code on threads of
    its own (`sync_to_async(..., thread_sensitive=False)`) has connections of its own, and no part in the transaction.

    Args:
        using: The alias of the database, a key of `DATABASES`.

    Raises:
        ConfigurationError: There is no such alias, or it has AUTOCOMMIT off. Raised by the first request if the
            settings are not loaded yet.

    Example:
        >>> db = DjangoUnitOfWork()
    """

    is_async: bool | None = None
    """Either: as the middleware is."""

    def __init__(self, using: str = DEFAULT_DB_ALIAS) -> None:
        self._using = using
        self._checked = False
        if settings.configured:
            self._check()

    def __call__(self, exchange: Exchange) -> Any:
        """Make the unit of work of *exchange*, sync under WSGI and async under ASGI; the middleware calls it."""
        if not self._checked:
            self._check()
        _receiver.stay_last()
        is_async = exchange._settings.is_async
        unit = AsyncUnit(self._using, _thread_of(exchange)) if is_async else SyncUnit(self._using)
        exchange.units[self] = unit
        return unit

    def _check(self) -> None:
        if self._using not in connections.settings:
            raise ConfigurationError(
                f"DjangoUnitOfWork: no database has the alias {self._using!r}"
                f"{did_you_mean(str(self._using), connections.settings)}"
            )
        if not connections.settings[self._using].get("AUTOCOMMIT", True):
            raise ConfigurationError(
                f"DjangoUnitOfWork: DATABASES[{self._using!r}] has AUTOCOMMIT off, and there transaction.atomic() "
                "never commits; leave it on, the unit of work begins the transactions"
            )
        self._checked = True


def _thread_of(exchange: Exchange) -> ThreadSensitiveContext:
    """Return the thread of *exchange*'s sync code; the first call enters it and has it end with the exchange."""
    for unit in exchange.units.values():
        if isinstance(unit, AsyncUnit):
            return unit.thread
    thread = ThreadSensitiveContext()
    # Not by its `async with`: it would share one that is entered already, and two requests never share a transaction.
    SyncToAsync.thread_sensitive_context.set(thread)

    def end() -> None:
        executor = SyncToAsync.context_to_thread_executor.pop(thread, None)
        if executor is not None:
            executor.submit(connections.close_all)  # opened by hooks, after Django closed its own
            executor.shutdown(wait=False)

    exchange._at_end = [end]
    return thread


def begin_units(exchange: Exchange) -> None:
    """Begin those of Django's transactions of *exchange* that have not begun, on the thread of its views."""
    for unit in exchange.units.values():
        if isinstance(unit, Unit):
            unit.enter()


class _Receiver:
    """Begins the current exchange's units when Django says `request_started`, after all other receivers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._names = (f"{__name__}.{number}" for number in itertools.count())
        self._name = next(self._names)
        request_started.connect(self, weak=False, dispatch_uid=self._name)

    def __call__(self, **signal: Any) -> None:
        exchange = current.get()
        if exchange is not None:
            begin_units(exchange)

    def stay_last(self) -> None:
        """Move behind a receiver that was connected later: Django's test client connects Django's own anew."""
        if self._is_last():
            return
        with self._lock:
            if not self._is_last():
                earlier, self._name = self._name, next(self._names)
                # In this order: a signal sent meanwhile by another thread finds at least one.
                request_started.connect(self, weak=False, dispatch_uid=self._name)
                request_started.disconnect(dispatch_uid=earlier)

    def _is_last(self) -> bool:
        return any(entry[0][0] == self._name for entry in request_started.receivers[-1:])


_receiver: Final = _Receiver()
