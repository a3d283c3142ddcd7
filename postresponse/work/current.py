"""The supervisor of this process, and what a handler says without naming it."""

from collections.abc import Callable
from contextvars import copy_context
from typing import Any, Final

from postresponse.core.current import current, current_exchange
from postresponse.core.exchange import Exchange
from postresponse.core.work import When, condition_of
from postresponse.exceptions import ConfigurationError
from postresponse.work.checks import check_function
from postresponse.work.job import Job
from postresponse.work.supervisor import TaskSupervisor

__all__ = ["after_response", "default_supervisor", "launch", "supervisor_given", "supervisor_of"]

_default: Final = TaskSupervisor()


def default_supervisor() -> TaskSupervisor:
    """Return the supervisor of this process, which all use that were given no other."""
    return _default


def supervisor_of(exchange: Exchange | None) -> TaskSupervisor:
    """Return the supervisor of the middleware that *exchange* belongs to, or the process's."""
    return _default if exchange is None else exchange._settings.supervisor or _default


def supervisor_given(supervisor: Any) -> TaskSupervisor:
    """Return the supervisor that a middleware was given, or the process's for None.

    Raises:
        ConfigurationError: It is none.
    """
    if supervisor is None:
        return _default
    if not isinstance(supervisor, TaskSupervisor):
        raise ConfigurationError(f"supervisor: expected a TaskSupervisor, found {supervisor!r}")
    return supervisor


def launch(
    fn: Callable[..., Any],
    /,
    *args: Any,
    bulkhead: Any = None,
    timeout: float | None = None,
    name: str | None = None,
) -> Job[Any]:
    """Start `fn(*args)` now, beside the request; see `TaskSupervisor.launch`."""
    return supervisor_of(current.get()).launch(fn, *args, bulkhead=bulkhead, timeout=timeout, name=name)


def after_response(
    fn: Callable[..., Any],
    /,
    *args: Any,
    when: When = "committed",
    bulkhead: Any = None,
    timeout: float | None = None,
    name: str | None = None,
) -> None:
    """Start `fn(*args)` once the response is over, if *when* holds then.

    It starts in the order of registration, and nothing waits for it: neither the client nor the next request. Work of
    a rolled-back request, or of an attempt that is run again, does not start. Sync functions of one response run on one
    thread, one behind the other. What it reads of the context is as it is now. Called by such work, it starts a
    further piece.

    In this process and best effort: a process that is killed takes it along.

    Args:
        when: `"committed"` (the unit of work committed; without one, a status below 400 and no exception), `"sent"`,
            `"rolled_back"`, `"aborted"`, `"always"`, or a function of the `Outcome`.
        bulkhead: The `Bulkhead` whose bound it keeps, or its name. A full one is logged, and the work is dropped.
        timeout: Seconds from its start until it has to be done; None for as long as it takes.
        name: How it is called in the log; None for the function's name.

    Raises:
        NoExchange: Called outside of a request, and of `scope()`.
        ResponseStarted: The response is over, and what calls is no work that it started.
        NotAFunction: *fn* cannot be called, or is a coroutine object, which is closed.
        ConfigurationError: An unknown condition or bulkhead, or *timeout* is no number of seconds above zero.
    """
    if not callable(fn):
        check_function("after_response()", fn)
    exchange = current_exchange()
    condition = condition_of(when)
    supervisor = supervisor_of(exchange)
    bounds = (None, None) if bulkhead is None and timeout is None else supervisor._bounds(bulkhead, timeout)
    exchange._register((condition, supervisor._start_due, (fn, args, copy_context(), *bounds, name)))
