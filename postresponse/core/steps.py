"""What ends an exchange step by step: what a step is, which errors are failures, and who is told of them.

What is done in steps is a generator of them. A shell performs a step (calls it, awaits it, sends it to a thread), hands
the result back, or throws what it raised.
"""

from collections.abc import Callable, Generator
from typing import Any, Final, TypeVar

from postresponse.core.driven import DrivenExchange
from postresponse.core.exchange import Failure, Stage
from postresponse.core.log import logger
from postresponse.core.units import Manner

__all__ = ["FAILURES", "Step", "Steps", "hand_over", "keep", "let_pass", "run_all", "tell_failure"]

T = TypeVar("T")

Step = tuple[Callable[..., Any], tuple[Any, ...], Manner | None, float | None]
"""One thing to be done by the shell: what to call, with what; for a method of the unit of work in which manner, None
for a hook; and the seconds that it may take, None for as long as it takes."""

Steps = Generator[Step, None, T]

FAILURES: Final = (Exception, SystemExit)
"""What is a failure. All else ends a process or a task, and is never swallowed; cancellation is no `Exception`."""


def keep(exchange: DrivenExchange, error: BaseException) -> None:
    """Keep *error* if it ends a process or a task: it passes once everything is done."""
    if not isinstance(error, FAILURES) and exchange._passing is None:
        exchange._passing = error


def let_pass(exchange: DrivenExchange) -> None:
    """Raise what was kept."""
    passing, exchange._passing = exchange._passing, None
    if passing is not None:
        raise passing


def tell_failure(exchange: DrivenExchange, what: str, callback: Callable[[Failure], Any] | None = None) -> Steps[None]:
    """Log the failure that refused the response, and hand it to *callback*, or to `on_error`."""
    failure = exchange._failure
    assert failure is not None
    logger.error("%s: %s", exchange.route, what, exc_info=failure.exception)
    yield from hand_over(exchange, failure, callback)


def hand_over(
    exchange: DrivenExchange, failure: Failure, callback: Callable[[Failure], Any] | None = None
) -> Steps[None]:
    """Hand *failure* to *callback*, or to `on_error`."""
    callback = callback or (exchange._settings.on_error if failure.stage != "commit" else None)
    if callback is not None:
        try:
            yield callback, (failure,), None, None
        except GeneratorExit:
            raise
        except BaseException as error:
            logger.error("%s: %r failed", exchange.route, callback, exc_info=error)
            keep(exchange, error)


def run_all(exchange: DrivenExchange, stage: Stage, hooks: list[Any] | None, args: tuple[Any, ...]) -> Steps[None]:
    """Run every hook whatever the others do; what ends a process or a task passes through once all is done."""
    for hook in hooks or ():
        try:
            yield hook, args, None, None
        except GeneratorExit:
            raise
        except FAILURES as error:
            logger.error("%s: the %s hook %r failed", exchange.route, stage, hook, exc_info=error)
            yield from hand_over(exchange, Failure(exchange, stage, error, transient=False))
        except BaseException as error:  # noqa: BLE001 (handed on)
            keep(exchange, error)
