"""One transaction of Django's around one request: how it begins, what its statements tell, and how it ends."""

import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

from asgiref.sync import SyncToAsync, ThreadSensitiveContext, sync_to_async
from django.db import Error, connections, transaction

from postresponse.core.log import logger
from postresponse.exceptions import CommitRefused, NoTransaction, UnitOfWorkError
from postresponse.unit_of_work.django_commit import send_commit, ticket_on
from postresponse.unit_of_work.in_doubt import run
from postresponse.unit_of_work.severing import shut_down
from postresponse.unit_of_work.statements import detached, gave_up, is_kept, only_reads, worse_of

__all__ = ["AsyncUnit", "SyncUnit", "Unit"]


_IN_ERROR: Final = 3
"""libpq's PQTRANS_INERROR, as psycopg and psycopg2 give it."""


class Unit:
    """The transaction of one exchange on one alias; what both twins share."""

    __slots__ = (
        "_atomic",
        "_connection",
        "_due",
        "_earlier_error",
        "_gave_up",
        "_has_savepoints",
        "_holds",
        "_is_sealed",
        "_lock",
        "_not_begun",
        "_thread_id",
        "_using",
        "_writes",
        "_wrote",
        "committed",
        "statement_error",
    )

    active = True  # inside of atomic() Django lets no view commit or roll back by itself
    changed = False  # what is written after the end commits by itself

    def __init__(self, using: str) -> None:
        self._using = using
        self._due = True
        self._connection: Any = None
        self._atomic: Any = None
        self._earlier_error: BaseException | None = None
        self._wrote = False
        self._not_begun: Exception | None = None
        self._holds = False  # had written, and was still in the transaction behind the last statement
        self._gave_up = False
        self._thread_id = 0
        self._has_savepoints = False
        self._is_sealed = False
        self._lock = threading.Lock()
        self._writes: list[tuple[Callable[[Any, list[Any]], object], Any]] = []
        self.committed: bool = False
        self.statement_error: BaseException | None = None

    @property
    def enlists_in(self) -> "Unit":
        """What an outbox writes a message in."""
        return self

    @property
    def touched(self) -> bool:
        return self._connection is not None

    def enter(self) -> None:
        """Begin, once; on the thread that the view's queries run on."""
        if not self._due:
            return
        self._due, self._thread_id = False, threading.get_ident()
        connection, atomic = connections[self._using], transaction.atomic(self._using)
        try:
            atomic.__enter__()
        except Error as error:
            self._connection, self._not_begun = connection, error
            connection.ensure_connection = self._refuse
            return
        # Django never forgets the error of an earlier request on the same connection.
        self._connection, self._atomic, self._earlier_error = connection, atomic, connection.rollback_exc
        connection.execute_wrappers.append(self._execute)

    def _refuse(self) -> None:
        """Raise what the transaction could not begin for, in the place of the connection's `ensure_connection`.

        Whatever needs a connection asks for it there: a view's query or `atomic()`, of which Django makes a 500, and
        not the receiver of a signal, whose error would leave Django and be answered by the server. Nothing is tried
        anew in the same request, where it would run in no transaction.
        """
        assert self._not_begun is not None
        self.statement_error = worse_of(self.statement_error, self._not_begun)
        raise detached(self._not_begun)

    @property
    def has_ended(self) -> bool:
        """Whether it was committed, rolled back or given up, or is being committed."""
        return self._is_sealed or (not self._due and self._not_begun is None and self._atomic is None)

    def write_now(self) -> Any:
        """Return the connection, to whoever has to write at once what dies with a savepoint; else None.

        That is a caller on its thread, and inside of an `atomic()` block of a view's own, or behind a savepoint of any
        kind. What is still to be written was given before, and is written first where it may be.

        Raises:
            NoTransaction: The transaction has not begun.
            Error: What it could not begin for.
        """
        if self._due:
            raise NoTransaction(
                f"the request's transaction on {self._using!r} has not begun: Django's handler begins it; call this in "
                "a view or in one of Django's middlewares"
            )
        if self._not_begun is not None:
            self._refuse()
        if threading.get_ident() != self._thread_id:
            return None
        if self._is_outermost():
            if not self._has_savepoints:
                return None
            self._write_all()
        return self._connection

    def write_last(self, write: Callable[[Any, list[Any]], object], item: Any) -> bool:
        """Call *write* with the connection and *item* right before COMMIT, on its thread; False if it is too late.

        Once for all items that are given it one after the other; before the next savepoint, if there is one. Not called
        for a rollback. One that raises fails the commit.
        """
        with self._lock:  # given on any thread: none may come between what is written and the COMMIT
            if not self._is_sealed:
                self._writes.append((write, item))
            return not self._is_sealed

    def _is_outermost(self) -> bool:
        return self._connection.atomic_blocks[-1] is self._atomic

    def _write_all(self) -> None:
        with self._lock:
            writes, self._writes = self._writes, []
        for write, given in groupby(writes, itemgetter(0)):
            write(self._connection, [item for _, item in given])

    def _on_savepoint(self) -> None:
        """Write what does not die with the savepoint that is about to be made, and keeps its place before what does."""
        self._has_savepoints = True
        if self._is_outermost():
            self._write_all()

    @staticmethod
    def around(connection: Any) -> "Unit | None":
        """Return the one whose transaction *connection* is in; None if there is none."""
        for wrapper in connection.execute_wrappers:
            unit = getattr(wrapper, "__self__", None)
            if isinstance(unit, Unit):
                return unit
        return None

    def _execute(self, execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: Any) -> Any:
        """Run a statement, as Django's execute wrappers do, and remember what it failed with."""
        if isinstance(sql, str) and sql[:9].upper() == "SAVEPOINT" and self._atomic is not None:
            self._on_savepoint()
        self._wrote = self._wrote or not (isinstance(sql, str) and only_reads(sql))
        try:
            result = execute(sql, params, many, context)
        except transaction.TransactionManagementError:  # behind one that failed: never the reason itself
            raise
        except Exception as error:
            self.statement_error = worse_of(self.statement_error, error)
            self._see_if_given_up(error)
            raise
        if self._wrote:
            idle = is_kept(self._connection.connection)
            self._holds = not idle
            if idle:
                self.committed = True
        return result

    def _see_if_given_up(self, error: Exception) -> None:
        connection = self._connection
        driver = connection.connection
        is_open = self._atomic is not None
        if is_open and gave_up(error.__cause__ or error, driver, partial(run, driver), held=self._holds):
            self._gave_up = True
            # Django then refuses what follows, which on SQLite would commit by itself.
            connection.needs_rollback, connection.rollback_exc = True, error

    def sever(self) -> None:
        """Shut the connection's socket down under a call that hangs; it then fails, and returns."""
        with suppress(Exception):
            shut_down(self._connection.connection)

    def _commit(self) -> None:
        with self._lock:
            self._is_sealed = True
        self._flush()
        if self._not_begun is not None:
            return
        connection, callbacks = self._connection, []
        if connection.savepoint_ids:
            self._exit()
        else:
            ticket = ticket_on(connection) if self._wrote else None
            callbacks, connection.run_on_commit = connection.run_on_commit, []
            # Not by Atomic.__exit__: behind a lost connection it would connect anew, and tell of that instead.
            self._leave_atomic(connection)
            send_commit(connection, ticket)
        # Not left to Django: there one that raises would make a commit that succeeded look like one that failed.
        for _, callback, _ in callbacks:
            try:
                callback()
            except (Exception, SystemExit) as error:
                logger.error("the on_commit callback %r failed", callback, exc_info=error)

    def _flush(self) -> None:
        """Refuse what cannot be committed, and write what is still to be written; Django holds back no statement."""
        if self._not_begun is not None:
            if self.statement_error is not None:
                raise CommitRefused(
                    f"the transaction on {self._using!r} could not begin, and the error was caught where it was needed"
                ) from self.statement_error
            return
        self._check_place()
        self._check_committable(self._connection)
        self._write_all()

    def _roll_back(self) -> None:
        if self._atomic is None:
            return  # a commit that failed, and was rolled back
        self._check_place()
        connection = self._connection
        while connection.atomic_blocks[-1] is not self._atomic:
            connection.atomic_blocks.pop()
            connection.savepoint_ids.pop()
        connection.set_rollback(True)
        if connection.savepoint_ids or connection.closed_in_transaction:
            self._exit()
            return
        # Not by Atomic.__exit__: after a rollback that fails it would connect anew at once, to a server that is gone.
        self._leave_atomic(connection)
        connection.rollback()
        connection.set_autocommit(True)

    def _close(self) -> None:
        """Give the connection back by Django's rules (CONN_MAX_AGE), unless a test's own transaction is around it."""
        self._roll_back()
        self._stop_watching(self._connection)
        if not self._connection.in_atomic_block:
            self._connection.close_if_unusable_or_obsolete()
        self._connection = None

    def _give_up(self) -> None:
        """Close the connection whatever its state, from any thread; the next query opens a new one."""
        connection, self._connection, self._atomic = self._connection, None, None
        if connection is None:
            return
        self._stop_watching(connection)
        connection.in_atomic_block = connection.closed_in_transaction = connection.needs_rollback = False
        connection.inc_thread_sharing()
        try:
            connection.close()
        finally:
            connection.dec_thread_sharing()

    def _stop_watching(self, connection: Any) -> None:
        if self._not_begun is not None:
            self._not_begun = None
            vars(connection).pop("ensure_connection", None)
        with suppress(ValueError):
            connection.execute_wrappers.remove(self._execute)

    def _leave_atomic(self, connection: Any) -> None:
        self._atomic = None
        connection.atomic_blocks.pop()
        connection.in_atomic_block = False

    def _exit(self) -> None:
        atomic, self._atomic = self._atomic, None
        atomic.__exit__(None, None, None)

    def _check_place(self) -> None:
        """Refuse to end the transaction where Django would end another one."""
        if connections[self._using] is not self._connection:
            raise UnitOfWorkError(
                f"the transaction on {self._using!r} began on another thread than it is to end on; let Django's own "
                "handler run the request, on the event loop or thread that the middleware is called on"
            )
        if self._atomic not in self._connection.atomic_blocks:
            raise UnitOfWorkError(f"the transaction on {self._using!r} was ended behind Django's back")

    def _check_committable(self, connection: Any) -> None:
        """Refuse a commit that Django or PostgreSQL would turn into a rollback unsaid, or others into a half."""
        if connection.closed_in_transaction:
            raise CommitRefused(
                f"the connection {self._using!r} was closed inside the request's transaction, and what was written is "
                "lost: by connection.close() or close_old_connections() in a view, which may call neither, or by "
                "Django because the client left"
            )
        given_up = self._gave_up or _is_in_error(connection)
        if connection.needs_rollback or given_up:
            error = connection.rollback_exc
            if error is self._earlier_error:
                error = self.statement_error if given_up else None
            if self._gave_up:  # no savepoint would have helped
                raise CommitRefused(
                    f"the database has rolled the transaction on {self._using!r} back at an error that was caught; let "
                    "the error out, so that the request can be run again, or call doom() to roll back on purpose"
                ) from error
            raise CommitRefused(
                f"the transaction on {self._using!r} can only be rolled back: an error of the database was caught "
                "inside it, or set_rollback(True) was called. Let the error out, put transaction.atomic() around the "
                "statements that may fail, or call doom() to roll back on purpose"
            ) from error
        if not self._is_outermost():
            raise CommitRefused(
                f"a transaction.atomic() block on {self._using!r} is still open: a streaming body may not hold one "
                "over its first part where the commit is at the head; give its view commit_policy('buffered')"
            )


class SyncUnit(Unit):
    __slots__ = ()

    def begin(self) -> None:
        """Nothing: the receiver of `request_started` begins."""

    def flush(self) -> None:
        self._flush()

    def commit(self) -> None:
        self._commit()

    def rollback(self) -> None:
        self._roll_back()

    def close(self) -> None:
        self._close()

    def invalidate(self) -> None:
        self._give_up()


class AsyncUnit(Unit):
    __slots__ = ("thread",)

    def __init__(self, using: str, thread: ThreadSensitiveContext) -> None:
        super().__init__(using)
        self.thread: ThreadSensitiveContext = thread

    async def begin(self) -> None:
        """Nothing: the receiver of `request_started` begins."""

    async def flush(self) -> None:
        await self._on_thread(self._flush)

    async def commit(self) -> None:
        await self._on_thread(self._commit)

    async def rollback(self) -> None:
        await self._on_thread(self._roll_back)

    async def close(self) -> None:
        await self._on_thread(self._close)

    async def invalidate(self) -> None:
        self.sever()  # or this would wait behind the call that hangs
        await self._on_thread(self._give_up)

    async def _on_thread(self, call: Callable[[], None]) -> None:
        # Set anew: the caller's context is not the application's where that ran in a task of its own.
        token = SyncToAsync.thread_sensitive_context.set(self.thread)
        try:
            await sync_to_async(call, thread_sensitive=True)()
        finally:
            SyncToAsync.thread_sensitive_context.reset(token)


def _is_in_error(connection: Any) -> bool:
    """Whether PostgreSQL answers COMMIT with a rollback; Django does not see each failed statement, the driver does."""
    info = getattr(connection.connection, "info", None) if connection.vendor == "postgresql" else None
    return getattr(info, "transaction_status", None) == _IN_ERROR
