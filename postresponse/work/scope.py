"""The life cycle of a request where there is none: in a script, a management command, a worker of a task queue."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic_ns
from typing import Any

from postresponse.core.current import current
from postresponse.core.driven import DrivenExchange
from postresponse.core.exchange import Exchange
from postresponse.core.lifecycle import Event, Outcome, State
from postresponse.core.settings import Settings
from postresponse.core.settlement import begin_unit, finish, made_unit, settle
from postresponse.performing import perform
from postresponse.typing import UnitOfWork
from postresponse.work import homes
from postresponse.work.current import supervisor_given
from postresponse.work.supervisor import TaskSupervisor

__all__ = ["scope"]


@contextmanager
def scope(
    name: str = "scope",
    *,
    unit_of_work: Callable[[Exchange], UnitOfWork] | None = None,
    on_finished: Callable[[Outcome], Any] | None = None,
    supervisor: TaskSupervisor | None = None,
) -> Iterator[Exchange]:
    """Give a block of code what a request has: an exchange, a unit of work, and work that starts when it is over.

    A block that ends well commits, and its `after_response` work starts; one that raises rolls back, and the error
    passes. It works inside async code too, where its unit of work has to be a sync one.

    Args:
        name: How it is called in the log.
        unit_of_work: As the middleware's; None has nothing to commit.
        on_finished: Receives the `Outcome`.
        supervisor: Carries the work; None for the one of this process.

    Raises:
        ConfigurationError: An option has a value that it cannot have.
        CommitRefused: What the commit raised passes, whatever it is.
    """
    home = homes.here()
    settings = Settings.of(
        is_async=False,
        clock=monotonic_ns,
        unit_of_work=unit_of_work,
        commit=None,
        error_response=None,
        on_commit_failed=None,
        on_finished=on_finished,
        on_error=None,
        cleanup_timeout=5.0,
        supervisor=supervisor_given(supervisor),
    )
    exchange = DrivenExchange(settings, {"method": "with", "path": name}, monotonic_ns())
    exchange._loop = None if home is None else home.loop
    token = current.set(exchange)
    try:
        if unit_of_work is not None:
            made_unit(exchange)
            if perform(exchange, begin_unit(exchange)) is not None:
                raise _refusal(exchange)
        yield exchange
        exchange._status = 200  # for the rules: a block that ended well
        event = perform(exchange, settle(exchange))
        exchange._status = None
        if event is Event.REFUSED:
            raise _refusal(exchange)
        exchange._body_sent = monotonic_ns()
    except BaseException as error:
        exchange._raised, exchange._exception = True, error
        raise
    finally:
        exchange._state = State.OVER
        try:
            perform(exchange, finish(exchange))
        finally:
            current.reset(token)
            exchange._exception = exchange._failure = exchange._scope = None


def _refusal(exchange: DrivenExchange) -> BaseException:
    assert exchange._failure is not None
    return exchange._failure.exception
