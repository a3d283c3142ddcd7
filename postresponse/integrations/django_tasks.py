"""Back ends for `django.tasks`, which Django has from 6.0 on: one durable, one for after the response.

    TASKS = {"default": {"BACKEND": "postresponse.integrations.django_tasks.OutboxBackend", "QUEUES": ["default"]}}

Neither keeps results: the outbox forgets what was delivered, and work after a response lives in its process. So neither
says that it could find one again.
"""

import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, Final
from uuid import uuid4

from django.apps import apps
from django.core import checks
from django.db import DEFAULT_DB_ALIAS, close_old_connections, connections, transaction
from django.tasks import Task, TaskContext, TaskResult, TaskResultStatus
from django.tasks.backends.base import BaseTaskBackend
from django.tasks.base import TaskError
from django.tasks.signals import task_enqueued, task_finished, task_started
from django.utils import timezone
from django.utils.crypto import get_random_string
from django.utils.json import normalize_json
from django.utils.module_loading import import_string

from postresponse import after_response, launch
from postresponse.core.policy import unknown
from postresponse.exceptions import ConfigurationError, MessageRefused, NoExchange, ResponseStarted
from postresponse.messaging import Message, Outbox, Relay
from postresponse.messaging.deliveries.function import Function
from postresponse.messaging.delivery import Delivery
from postresponse.messaging.django_store import engine_of

__all__ = ["AfterResponseBackend", "OutboxBackend"]

APP: Final = "postresponse.integrations.django_outbox"
WORKER: Final = get_random_string(32)
"""This process, as results name who ran them."""
EARLIER: Final = "unknown"
"""Who ran an earlier attempt."""


class _Backend(BaseTaskBackend):  # type: ignore[misc]
    """What both have in common: results, and how a task runs."""

    supports_async_task: Any = True

    def _options(self, defaults: Mapping[str, Any]) -> dict[str, Any]:
        unknown(self.options, defaults, f"TASKS[{self.alias!r}]['OPTIONS']")
        return {**defaults, **self.options}

    def _result(self, task: Any, id: str, args: Any, kwargs: Any, attempts: int = 0) -> Any:
        return TaskResult(
            task=task,
            id=id,
            status=TaskResultStatus.READY,
            enqueued_at=timezone.now(),
            started_at=None,
            finished_at=None,
            last_attempted_at=None,
            args=args,
            kwargs=kwargs,
            backend=self.alias,
            errors=[],
            worker_ids=[EARLIER] * attempts,
        )

    def _run(self, result: Any, *, is_last: bool = True) -> None:
        """Run the task of *result* on this thread, with database connections that are given back behind it.

        Raises:
            Exception: What the task raised.
        """
        close_old_connections()
        try:
            self._run_here(result, is_last=is_last)
        finally:
            close_old_connections()

    def _run_here(self, result: Any, *, is_last: bool) -> None:
        began = timezone.now()
        _set(result, status=TaskResultStatus.RUNNING, started_at=began, last_attempted_at=began)
        result.worker_ids.append(WORKER)
        task_started.send(sender=type(self), task_result=result)
        context = (TaskContext(task_result=result),) if result.task.takes_context else ()
        try:
            value = normalize_json(result.task.call(*context, *result.args, **result.kwargs))
        except (Exception, SystemExit) as error:
            result.errors.append(_error(error))
            _set(result, status=TaskResultStatus.FAILED if is_last else TaskResultStatus.READY)
            if is_last:
                _set(result, finished_at=timezone.now())
                task_finished.send(type(self), task_result=result)
            raise
        _set(result, status=TaskResultStatus.SUCCESSFUL, finished_at=timezone.now(), _return_value=value)
        task_finished.send(type(self), task_result=result)


def _set(result: Any, **changes: Any) -> None:
    """Change a result, which is frozen for everybody else."""
    for name, value in changes.items():
        object.__setattr__(result, name, value)


def _error(error: BaseException) -> Any:
    kind = type(error)
    text = "".join(traceback.format_exception(error))
    return TaskError(exception_class_path=f"{kind.__module__}.{kind.__qualname__}", traceback=text)


# -- after the response -----------------------------------------------------------------------------------------------


class AfterResponseBackend(_Backend):
    """Runs a task once the response of the request that enqueues it is over, if that committed; else not at all.

    As `after_response` does: on a thread of this process, one task of a response behind the other, and best effort. A
    process that is killed takes it along. Outside of a request a task starts once the transaction around it commits, or
    at once where there is none. The result that `enqueue` returns shows in this process how far the task is.

    `OPTIONS` are those of `after_response`: `when`, `bulkhead` and `timeout`.
    """

    def __init__(self, alias: str, params: Mapping[str, Any]) -> None:
        super().__init__(alias, params)
        self._given = self._options({"when": "committed", "bulkhead": None, "timeout": None})

    def enqueue(self, task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Have *task* run.

        Raises:
            InvalidTask: It has a priority or a time, which this back end cannot keep.
        """
        self.validate_task(task)
        result = self._result(task, str(uuid4()), args, kwargs)
        run, name = partial(self._run, result), task.module_path
        try:
            after_response(run, name=name, **self._given)
        except (NoExchange, ResponseStarted):
            start = partial(launch, run, name=name, **{each: self._given[each] for each in ("bulkhead", "timeout")})
            transaction.on_commit(start) if connections[DEFAULT_DB_ALIAS].in_atomic_block else start()
        task_enqueued.send(type(self), task_result=result)
        return result


# -- by the outbox ----------------------------------------------------------------------------------------------------


class _AnyTask(frozenset[str]):
    """The names that a queue takes: whatever names a task, which is looked at when it is run."""

    def __contains__(self, name: object) -> bool:
        return True


_outboxes: dict[tuple[str, ...], Outbox] = {}
"""One for each set of queues: Django makes a back end for each thread, and a relay listens to its outbox."""


def _outbox_for(queues: tuple[str, ...]) -> Outbox:
    found = _outboxes.get(queues)
    if found is None:
        found = Outbox({destination: ["task"] for destination in queues})
        found.allow = dict.fromkeys(queues, _AnyTask())
        found = _outboxes.setdefault(queues, found)
    return found


class OutboxBackend(_Backend):
    """Writes a task into the outbox in the caller's transaction; it runs if that commits, at least once.

    `manage.py postresponse outbox relay` runs the tasks, in any number of processes. A task that raises is run again,
    later each time, and is dead behind its last attempt: the admin and `manage.py postresponse outbox` show it, and let
    it wait again. So a task has to bear being run twice; its context tells the attempt, and its result's id is the same
    each time. `task_enqueued` is sent once the transaction has committed, `task_finished` behind the last attempt.

    A queue is the destination `tasks.NAME` of the outbox, by which it can be paused. `run_after` is kept; a priority is
    refused.

    Args of `OPTIONS`:
        database: The alias of the database (default: `"default"`).
        attempts: How often a task is tried (default: 10).
        concurrency: How many tasks of a queue run at once in a relay (default: 8).
        timeout: Seconds that a task may take (default: 300); one that is late is run again beside it.
    """

    supports_defer: Any = True

    def __init__(self, alias: str, params: Mapping[str, Any]) -> None:
        super().__init__(alias, params)
        given = self._options({"database": DEFAULT_DB_ALIAS, "attempts": 10, "concurrency": 8, "timeout": 300.0})
        if not self.queues:
            raise ConfigurationError(f"TASKS[{alias!r}]['QUEUES']: name them; each is a destination of the outbox")
        self._using: str = given["database"]
        self._attempts: int = given["attempts"]
        self._concurrency: int = given["concurrency"]
        self._timeout: float = given["timeout"]
        self.outbox: Outbox = _outbox_for(tuple(sorted(f"tasks.{name}" for name in self.queues)))

    def enqueue(self, task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Write *task* into the outbox, in the transaction that the database is in, or in one of its own.

        Raises:
            InvalidTask: It has a priority, or its time is naive.
            MessageRefused: Its arguments are too large.
            NoTable: There is no outbox.
        """
        self.validate_task(task)
        message_id = uuid4()
        result = self._result(task, str(message_id), args, kwargs)
        payload = {"args": result.args, "kwargs": result.kwargs}
        due = task.run_after
        if due is not None and timezone.is_naive(due):
            due = timezone.make_aware(due)
        message = Message(f"tasks.{task.queue_name}", task.module_path, payload, due=due, id=message_id)
        connection = connections[self._using]
        with nullcontext() if connection.in_atomic_block else transaction.atomic(self._using):
            self.outbox.enlist(message, into=connection)
            tell = partial(task_enqueued.send, type(self), task_result=result)
            transaction.on_commit(tell, self._using, robust=True)
        return result

    def run(self, delivery: Delivery) -> None:
        """Run the task that *delivery* names: the function of the relay's destinations.

        Raises:
            MessageRefused: It names no task.
        """
        found, payload = import_string(delivery.name), delivery.payload
        if not isinstance(found, Task):
            raise MessageRefused(f"name: {delivery.name} is no task, but {found!r}")
        task = found.using(queue_name=delivery.destination.removeprefix("tasks."), backend=self.alias)
        result = self._result(task, str(delivery.id), payload["args"], payload["kwargs"], delivery.attempts)
        self._run(result, is_last=delivery.attempts + 1 >= self._attempts)

    def destinations(self) -> Mapping[str, Callable[[Delivery], Any] | Function]:
        """Return what a `Relay` of the outbox sends each queue to."""
        made = partial(Function, self.run, concurrency=self._concurrency, timeout=self._timeout)
        return {destination: made() for destination in self.outbox.allow}

    def relay(self, *, autostart: bool = False) -> Relay:
        """Return a relay that runs the tasks.

        Args:
            autostart: Whether it runs in this process as soon as there is a task; else it is to be started.
        """
        return Relay(
            self.outbox,
            engine_of(self._using),
            self.destinations(),
            attempts=self._attempts,
            lease=max(60.0, self._timeout + 30.0),
            autostart=autostart,
        )

    def check(self, **options: Any) -> Sequence[Any]:
        """E003: there is no outbox."""
        if apps.is_installed(APP):
            return []
        return [
            checks.Error(
                f"TASKS[{self.alias!r}] writes into an outbox, and {APP!r} is not installed.",
                hint="Put it into INSTALLED_APPS, and run `manage.py migrate`.",
                id="postresponse.E003",
            )
        ]
