"""Procrastinate as an outbox: its jobs are written in the caller's own transaction, and nothing else has to run.

Procrastinate keeps its jobs in PostgreSQL. Where that is the application's own database, a job that is written in the
transaction of what it tells of is there if, and only if, that commits: no table of ours, and no relay.
"""

import inspect
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from procrastinate import App
from procrastinate.connector import BaseConnector
from procrastinate.exceptions import AlreadyEnqueued, UniqueViolation
from procrastinate.jobs import Job
from procrastinate.manager import JobManager
from psycopg import errors
from psycopg.types.json import Jsonb
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from postresponse.core.policy import did_you_mean
from postresponse.exceptions import ConfigurationError, MessageRefused, NoTable, NoTransaction
from postresponse.messaging.message import Message
from postresponse.messaging.outbox import Enlisting, names_allowed

__all__ = ["ProcrastinateOutbox"]

_MISSING: Final = (errors.UndefinedTable, errors.UndefinedFunction, errors.UndefinedObject)


class ProcrastinateOutbox(Enlisting):
    """Messages that become jobs of Procrastinate's if, and only if, the transaction that enlists them commits.

    The destination of a message is the queue, its name the task's, and its payload the keyword arguments: a dictionary,
    or None. Jobs with the same ordering key are never run at the same time, and run in the order of their ids: it is
    their `lock`. Of messages with the same dedupe key one waits in its queue at a time, and others are dropped: it is,
    behind the queue's name, their `queueing_lock`. When a job is due goes by the clock of the process that enlists it.

    It writes through psycopg, of a Session, AsyncSession, Connection or AsyncConnection of SQLAlchemy's, in the
    database and the schema that Procrastinate's own tables are found in there. The app need not be open. (In Django use
    Procrastinate's own application: its tasks are deferred in the transaction of the view.)

    Args:
        app: Procrastinate's. The priority of a task that it knows is used, and its locks where the message has none.
        allow: The names that each destination takes, as `Outbox` has it; None for the tasks that *app* knows, on any
            queue.
        id_as: The keyword argument in which a task receives the message's id, as a text; None for leaving it out.
        headers_as: The keyword argument in which a task receives the message's headers, where there are some; None
            refuses messages with headers.
        max_size: Bytes that the document of one message may have.

    Raises:
        ConfigurationError: A value that an option cannot have.

    Example:
        >>> from procrastinate import PsycopgConnector
        >>> app = App(connector=PsycopgConnector())
        >>> outbox = ProcrastinateOutbox(app, {"mail": ["shop.send_receipt"]})
    """

    def __init__(
        self,
        app: App,
        allow: Mapping[str, Collection[str]] | None = None,
        *,
        id_as: str | None = "message_id",
        headers_as: str | None = None,
        max_size: int = 64 * 1024,
    ) -> None:
        if not isinstance(app, App):
            raise ConfigurationError(f"app: expected a procrastinate.App, found {app!r}")
        super().__init__({} if allow is None else names_allowed(allow), max_size)
        for option, name in (("id_as", id_as), ("headers_as", headers_as)):
            if name is not None and not (isinstance(name, str) and name.isidentifier()):
                raise ConfigurationError(f"{option}: expected the name of a keyword argument or None, found {name!r}")
        if id_as is not None and id_as == headers_as:
            raise ConfigurationError(f"id_as, headers_as: expected two names, found {id_as!r} for both")
        self._app = app
        self._id_as = id_as
        self._headers_as = headers_as
        self._takes_any_queue = allow is None
        self._writer = _Jobs(self)

    def _check_name(self, message: Message) -> None:
        tasks = self._tasks()
        if not self._takes_any_queue:
            super()._check_name(message)
        elif message.name not in tasks:
            raise MessageRefused(
                f"name: the app has no task {message.name!r}{did_you_mean(message.name, tasks)}; import it where the "
                "messages are enlisted (import_paths= of the App), or list it in allow="
            )
        arguments = self._arguments(message)
        task = tasks.get(message.name)
        if task is None:
            return  # this process does not know it
        for option, name in (("id_as", self._id_as), ("headers_as", self._headers_as)):
            if name in arguments and not _takes(task.func, name):
                raise MessageRefused(
                    f"name: the task {message.name!r} has no parameter {name!r}; give it one, or {option}= another name"
                )

    def _tasks(self) -> Mapping[str, Any]:
        app: Any = self._app  # not annotated
        app.perform_import_paths()
        return self._app.tasks

    def _arguments(self, message: Message) -> dict[str, Any]:
        """Return the keyword arguments of the job."""
        payload = {} if message.payload is None else message.payload
        if not isinstance(payload, dict):
            raise MessageRefused(
                f"payload: a task of Procrastinate's takes keyword arguments, a dictionary; found {payload!r:.80}"
            )
        own: dict[str, Any] = {}
        if self._id_as is not None:
            own[self._id_as] = str(message.id)
        if message.headers:
            if self._headers_as is None:
                raise MessageRefused(
                    "headers: a job of Procrastinate's has none; headers_as= names the keyword argument that takes them"
                )
            own[self._headers_as] = dict(message.headers)
        if taken := own.keys() & payload.keys():
            raise MessageRefused(f"payload: {min(taken)!r} is what the outbox gives a task; call it something else")
        return {**payload, **own}

    def _job(self, message: Message) -> Job:
        """Return the job that *message* becomes."""
        job = self._app.configure_task(message.name, queue=message.destination).job
        due, key = message.due, message.dedupe_key
        if message.delay:
            due = datetime.now(UTC) + timedelta(seconds=message.delay)
        return job.evolve(
            lock=message.ordering_key or job.lock,
            queueing_lock=job.queueing_lock if key is None else f"{message.destination}/{key}",
            scheduled_at=due,
            task_kwargs=self._arguments(message),
        )

    def _enlist_in_session(self, session: Session, message: Message) -> None:
        _check_driver(session.get_bind().dialect)
        super()._enlist_in_session(session, message)

    def _enlist_in_connection(self, connection: Connection | None, message: Message) -> None:
        if connection is not None:
            _check_driver(connection.dialect)
        super()._enlist_in_connection(connection, message)


def _check_driver(dialect: Any) -> None:
    if dialect.driver != "psycopg":
        raise NoTransaction(
            f"into: Procrastinate's jobs are written through psycopg, and this is {dialect.name} through "
            f"{dialect.driver}; connect by postgresql+psycopg://, to the database that its tables are in"
        )


def _takes(function: Any, name: str) -> bool:
    """Whether *function* can be called with a keyword argument *name*, by its own signature and not a wrapped one's."""
    parameters = inspect.signature(function, follow_wrapped=False).parameters.values()
    return any(
        each.kind is each.VAR_KEYWORD or (each.name == name and each.kind is not each.POSITIONAL_ONLY)
        for each in parameters
    )


class _Jobs:
    """Writes messages as jobs."""

    def __init__(self, outbox: ProcrastinateOutbox) -> None:
        self._outbox = outbox
        self._manager = JobManager(_CallersConnection())

    def write(self, connection: Connection, messages: Iterable[Message]) -> None:
        """Write *messages* in their order, as few statements as that takes.

        Raises:
            NoTable: Procrastinate's schema is missing.
        """
        waiting: list[Job] = []
        try:
            for job in map(self._outbox._job, messages):
                if job.queueing_lock is None:
                    waiting.append(job)
                    continue
                self._defer(connection, waiting)
                self._defer_unless_queued(connection, job)
            self._defer(connection, waiting)
        except DBAPIError as error:
            if isinstance(error.orig, _MISSING):
                raise NoTable(
                    "Procrastinate's tables are not in this database, or not in its search path: "
                    "`procrastinate schema --apply` makes them"
                ) from error
            raise

    def _defer(self, connection: Connection, jobs: list[Job]) -> None:
        if jobs:
            self._manager.batch_defer_jobs(list(jobs), connection=connection)
            jobs.clear()

    def _defer_unless_queued(self, connection: Connection, job: Job) -> None:
        """Write *job* inside of a savepoint: one that waits already is an error, of which the transaction would die."""
        connection.exec_driver_sql("SAVEPOINT postresponse")
        try:
            self._defer(connection, [job])
        except AlreadyEnqueued:
            connection.exec_driver_sql("ROLLBACK TO SAVEPOINT postresponse")
        connection.exec_driver_sql("RELEASE SAVEPOINT postresponse")


class _CallersConnection(BaseConnector):
    """Runs Procrastinate's statements on a connection of SQLAlchemy's, sync or async: its events hear of them."""

    def get_sync_connector(self) -> BaseConnector:
        return self

    def execute_query_all_with_connection(
        self, connection: Connection, query: str, **arguments: Any
    ) -> list[dict[str, Any]]:
        try:
            rows = connection.exec_driver_sql(query, {name: _adapted(value) for name, value in arguments.items()})
        except DBAPIError as error:
            if isinstance(error.orig, errors.UniqueViolation):
                told = error.orig.diag
                raise UniqueViolation(constraint_name=told.constraint_name, queueing_lock=None) from error
            raise
        return [dict(row) for row in rows.mappings()]


def _adapted(value: Any) -> Any:
    """Return *value* as psycopg takes it: dictionaries are JSON."""
    if isinstance(value, dict):
        return Jsonb(value)
    if isinstance(value, list):
        return [_adapted(each) for each in value]
    return tuple(map(_adapted, value)) if isinstance(value, tuple) else value
