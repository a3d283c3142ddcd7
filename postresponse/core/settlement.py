"""How a unit of work begins and ends, and in which order the hooks run: written once, for both kinds of caller.

Each function is a generator of `Step`s. A shell performs a step (calls it, awaits it, sends it to a thread), hands the
result back, or throws what it raised. The generator's return value is the `Event` for the table.
"""

import logging
from collections.abc import Callable, Generator
from typing import Any, Final, TypeVar

from postresponse.core.driven import DrivenExchange
from postresponse.core.exchange import Failure, Stage
from postresponse.core.headers import check_headers
from postresponse.core.lifecycle import MOVES, Event, UnitState
from postresponse.core.log import access, logger
from postresponse.core.policy import COMMIT, ROLL_BACK
from postresponse.core.units import Manner, UnitKind, kind_of
from postresponse.core.work import start_due, tell_due
from postresponse.exceptions import BodyTooLarge, MessageOrderError, WrongApplication

__all__ = ["FAILURES", "Step", "Steps", "commit_early", "finish", "refuse", "run_start_hooks", "settle"]
__all__ += ["begin_unit", "made_unit", "not_begun", "not_closed", "not_committed", "told"]

T = TypeVar("T")


Step = tuple[Callable[..., Any], tuple[Any, ...], Manner | None, float | None]
"""One thing to be done by the shell: what to call, with what; for a method of the unit of work in which manner, None
for a hook; and the seconds that it may take, None for as long as it takes."""

Steps = Generator[Step, None, T]

# A member of an enum is dear to look up before Python 3.12, and these are on every request's way.
SETTLED: Final = Event.SETTLED
COMMITTED: Final = UnitState.COMMITTED

FAILURES: Final = (Exception, SystemExit)
"""What is a failure. All else ends a process or a task, and is never swallowed; cancellation is no `Exception`."""


def begin_unit(exchange: DrivenExchange) -> Steps[Event | None]:
    """Begin the unit of work that was made, if it has to be."""
    unit, kind = exchange._unit, exchange._kind
    assert kind is not None
    try:
        if exchange._in_use():
            yield unit.begin, (), kind.begin, None
    except FAILURES as error:
        return (yield from not_begun(exchange, error))
    return None


def not_begun(exchange: DrivenExchange, error: BaseException) -> Steps[Event]:
    """Refuse the request, whose unit of work could not begin."""
    exchange._fail("begin", error)
    return (yield from _refused(exchange, "the unit of work could not begin"))


def made_unit(exchange: DrivenExchange) -> tuple[Any, UnitKind]:
    """Let the factory make a unit of work, and check what it made."""
    settings = exchange._settings
    assert settings.unit_of_work is not None
    unit = settings.unit_of_work(exchange)
    kind = kind_of(unit)
    if not settings.is_async and kind.is_async:
        raise WrongApplication(f"unit_of_work: {type(unit).__name__} is async and cannot run under WSGI")
    if exchange._policy is None:
        exchange._moves = MOVES[exchange.policy.point]  # a policy that is none raises, and nothing is begun
    exchange._unit, exchange._kind = unit, kind
    return unit, kind


def run_start_hooks(exchange: DrivenExchange) -> Steps[bool]:
    """Run the start hooks where nothing is to be settled; False if one failed, and an error response is due."""
    if (yield from _run_start_hooks(exchange)):
        return True
    yield from _tell_failure(exchange, "an on_start hook failed")
    _let_pass(exchange)
    return False


def _run_start_hooks(exchange: DrivenExchange) -> Steps[bool]:
    """Run the start hooks, last registered first; False if one failed."""
    hooks, exchange._on_start = exchange._on_start, None
    try:
        for hook in reversed(hooks or ()):
            yield hook, (exchange,), None, None
        if exchange._headers is not None:
            check_headers(exchange._headers)
    except FAILURES as error:
        exchange._fail("on_start", error)
        return False
    return True


def settle(exchange: DrivenExchange) -> Steps[Event]:
    """End the unit of work by the rules, its hooks around it, its connection released."""
    if (exchange._on_start is not None or exchange._headers is not None) and not (
        yield from _run_start_hooks(exchange)
    ):
        return (yield from _refused(exchange, "an on_start hook failed"))
    if exchange._unit is None:
        return SETTLED
    if exchange._unit_ended:
        return _answered(exchange)
    exchange._settling = exchange._settings.clock()
    try:
        verdict = exchange._judge()
    except FAILURES as error:
        exchange._fail("commit_if", error)
        return (yield from _refused(exchange, "commit_if failed"))
    if verdict is COMMIT:
        return (yield from _commit(exchange))
    if verdict is ROLL_BACK:
        logger.debug("%s: rolled back, status %s", exchange.route, exchange._status)
        yield from _roll_back(exchange)
    return (yield from _end(exchange))


def commit_early(exchange: DrivenExchange) -> Steps[Event]:
    """Commit before the application has answered, unless it is doomed or was ended already.

    A failure is the application's to answer; what `REFUSED` or `AGAIN` stands for is in the exchange.
    """
    exchange._check_unit_hook("an early commit", commit_early)
    if exchange._verdict is ROLL_BACK or not exchange._unit.active:
        return SETTLED
    exchange._settling = exchange._settings.clock()
    return (yield from _commit(exchange))


def _answered(exchange: DrivenExchange) -> Event:
    """Whether the answer to an early commit may leave: a general error page must not hide that nobody knows."""
    failure, status = exchange._failure, exchange._status or 500
    return Event.REFUSED if failure is not None and failure.unknown and status >= 500 else SETTLED


def refuse(exchange: DrivenExchange, event: Event) -> Steps[Event]:
    """Roll back because the response cannot leave as it is: its held body is too large, or has no end."""
    if event is Event.OVERFLOW:
        exchange._fail(
            "overflow",
            BodyTooLarge(
                f"the held body is over max_body={exchange.policy.max_body} bytes; raise the limit, set "
                "on_overflow='head', or let this view commit at the head"
            ),
        )
        return (yield from _refused(exchange, "its held body is too large"))
    exchange._fail("no end", MessageOrderError("the application returned without the end of its body"))
    return (yield from _refused(exchange, "its body has no end"))


def _refused(exchange: DrivenExchange, what: str) -> Steps[Event]:
    """Roll back what is open behind a failure, and tell of it, unless the request is run again."""
    if exchange._unit is not None and not exchange._unit_ended:
        exchange._settling = exchange._settling or exchange._settings.clock()
        yield from _roll_back(exchange)
        return (yield from _end(exchange, what))
    yield from _tell_failure(exchange, what)
    _let_pass(exchange)
    return Event.REFUSED


def _commit(exchange: DrivenExchange) -> Steps[Event]:
    unit, kind = exchange._unit, exchange._kind
    assert kind is not None
    stage: Stage = "before_commit"
    try:
        for hook in exchange._before_commit or ():
            yield hook, (), None, None
        stage = "commit"
        if exchange._in_use():
            yield unit.commit, (), kind.commit, None
        else:
            exchange._was_idle = True
        exchange._unit_state = COMMITTED
    except GeneratorExit:
        raise
    except BaseException as error:  # noqa: BLE001 (handed on by `_end`)
        return (yield from not_committed(exchange, error, stage))
    return (yield from _end(exchange))


def not_committed(exchange: DrivenExchange, error: BaseException, stage: Stage = "commit") -> Steps[Event]:
    """Roll back and refuse the response, whose unit of work could not commit."""
    # An exit out of COMMIT, as a worker's time-out raises it, says nothing of how that went on.
    cut_off = stage == "commit" and not isinstance(error, Exception)
    failure = exchange._fail(stage, error, unknown=cut_off)
    _keep(exchange, error)
    yield from _roll_back(exchange)
    exchange._unit_state = UnitState.UNKNOWN if failure.unknown else UnitState.FAILED
    return (yield from _end(exchange, "the unit of work could not commit", exchange._settings.on_commit_failed))


def not_closed(exchange: DrivenExchange, error: BaseException) -> Steps[Event]:
    """Give the connection up of a unit of work that committed and could not be closed."""
    yield from _not_cleaned_up(exchange, error, "close")
    exchange._settled = exchange._settings.clock()
    return (yield from told(exchange))


def _end(exchange: DrivenExchange, failed: str = "", callback: Callable[[Failure], Any] | None = None) -> Steps[Event]:
    """Release the connection and tell of the end; or `AGAIN`, and nothing is told of an attempt that is discarded.

    Args:
        failed: What could not be done, where the response is refused for it.
        callback: Told of that; None for `on_error`.
    """
    yield from _close(exchange)
    return (yield from told(exchange, failed, callback))


def told(exchange: DrivenExchange, failed: str = "", callback: Callable[[Failure], Any] | None = None) -> Steps[Event]:
    """Tell of the end of a unit of work whose connection is released, as `_end` has it."""
    state = exchange._unit_state
    if state is not COMMITTED and state is not UnitState.NONE and _runs_again(exchange):
        return Event.AGAIN
    yield from _after(exchange)
    if failed:
        yield from _tell_failure(exchange, failed, callback)
    _let_pass(exchange)
    return Event.REFUSED if failed else SETTLED


def _keep(exchange: DrivenExchange, error: BaseException) -> None:
    """Keep *error* if it ends a process or a task: it passes once everything is done."""
    if not isinstance(error, FAILURES) and exchange._passing is None:
        exchange._passing = error


def _let_pass(exchange: DrivenExchange) -> None:
    """Raise what was kept."""
    passing, exchange._passing = exchange._passing, None
    if passing is not None:
        raise passing


def _runs_again(exchange: DrivenExchange) -> bool:
    """Whether the request is run again, now that its unit of work has ended without a commit; noted in the exchange."""
    try:
        may = exchange._settings.retries and exchange._passing is None
        exchange._again = may and exchange._may_run_again()
    except FAILURES as error:
        logger.error("%s: Retry.on failed, and the request is not run again", exchange.route, exc_info=error)
    if exchange._again:
        exchange._silenced = True
        logger.info("%s: attempt %s failed and is run again", exchange.route, exchange.attempt)
        tell_due(exchange)
    return exchange._again


def _roll_back(exchange: DrivenExchange) -> Steps[None]:
    """Roll back; a connection that does not is given up, and its server ends the transaction."""
    exchange._unit_state = UnitState.ROLLED_BACK
    unit, kind = exchange._unit, exchange._kind
    assert kind is not None
    if not exchange._in_use():
        return
    # Where the handler was left behind on a thread, that may still be at work on the connection.
    at_work = kind.rollback is Manner.BLOCKS and exchange._is_abandoned()
    if not at_work or not (yield from _give_up(exchange)):
        yield from _clean_up(exchange, unit.rollback, kind.rollback, "roll back")


def _close(exchange: DrivenExchange) -> Steps[None]:
    exchange._unit_ended = True
    unit, kind = exchange._unit, exchange._kind
    assert kind is not None
    if exchange._in_use():
        yield from _clean_up(exchange, unit.close, kind.close, "close")
    exchange._settled = exchange._settings.clock()


def _clean_up(exchange: DrivenExchange, call: Callable[[], Any], manner: Manner, what: str) -> Steps[None]:
    try:
        yield call, (), manner, exchange._settings.cleanup_timeout
    except GeneratorExit:
        raise
    except BaseException as error:  # noqa: BLE001 (handed on by `_end`)
        yield from _not_cleaned_up(exchange, error, what)


def _not_cleaned_up(exchange: DrivenExchange, error: BaseException, what: str) -> Steps[None]:
    logger.error("%s: the unit of work could not %s", exchange.route, what, exc_info=error)
    _keep(exchange, error)
    yield from _give_up(exchange)


def _give_up(exchange: DrivenExchange) -> Steps[bool]:
    """Give the connection up; False where that cannot be done."""
    give_up, kind = getattr(exchange._unit, "invalidate", None), exchange._kind
    if give_up is None or kind is None:
        return False
    try:
        yield give_up, (), kind.invalidate, exchange._settings.cleanup_timeout
    except GeneratorExit:
        raise
    except BaseException as error:
        logger.error("%s: its connection could not be given up", exchange.route, exc_info=error)
        _keep(exchange, error)
        return False
    return True


def _after(exchange: DrivenExchange) -> Steps[None]:
    if exchange._unit_state is UnitState.COMMITTED:
        yield from _run_all(exchange, "after_commit", exchange._after_commit, ())
    elif exchange._unit_state in (UnitState.ROLLED_BACK, UnitState.FAILED):
        yield from _run_all(exchange, "after_rollback", exchange._after_rollback, ())


def finish(exchange: DrivenExchange) -> Steps[None]:
    """Settle what is open, clean up after late use, and report the outcome; the state is `OVER`.

    Nothing is reported of an attempt that is discarded; but of the one behind which what ends a process passes.
    """
    exchange._on_start = None
    if exchange._unit is not None:
        try:
            yield from _end_unit(exchange)
        except GeneratorExit:
            raise
        except BaseException as error:  # noqa: BLE001 (handed on below: the outcome is reported whatever happened)
            _keep(exchange, error)
    if exchange._silenced and not exchange._again:  # it was cancelled, and is the last attempt after all
        yield from _after(exchange)
        if exchange._failure is not None:
            is_commit = exchange._failure.stage in ("before_commit", "commit")
            callback = exchange._settings.on_commit_failed if is_commit else None
            yield from _tell_failure(exchange, "it failed, and is not run again", callback)
    if not (exchange._unheard and exchange._commits is None) and not exchange._again:
        yield from _report(exchange)
    at_end, exchange._at_end = exchange._at_end, None
    yield from _run_all(exchange, "on_finished", at_end, ())
    if exchange._again and exchange._passing is not None:  # it ends all, and there is no other attempt to be told of
        exchange._again = False
        yield from finish(exchange)
    _let_pass(exchange)


def _end_unit(exchange: DrivenExchange) -> Steps[None]:
    if exchange._unit_ended:
        if exchange._kind is not None and exchange._kind.lazy and exchange._unit.touched:
            yield from _end_late_use(exchange)
        return
    try:
        # A rule that fails here, or a commit, is logged; there is no response left that it could change.
        yield from settle(exchange)
    except GeneratorExit:
        raise
    except BaseException:
        if not exchange._unit_ended:
            yield from _roll_back(exchange)
            yield from _close(exchange)
        raise


def _report(exchange: DrivenExchange) -> Steps[None]:
    outcome = exchange._outcome(exchange._settings.clock())
    hooks = list(reversed(exchange._on_finished or ()))
    if exchange._settings.on_finished is not None:
        hooks.append(exchange._settings.on_finished)
    yield from _run_all(exchange, "on_finished", hooks, (outcome,))
    if access.isEnabledFor(logging.INFO):
        moments = outcome.moments
        access.info(
            "%s %s: %s, unit of work %s, head after %s ms, all after %s ms",
            exchange.route,
            outcome.status,
            outcome.ending,
            outcome.unit_of_work,
            _milliseconds(moments.began, moments.head_sent),
            _milliseconds(moments.began, moments.body_sent),
        )
    if exchange._settings.observers or exchange._more_observers:
        exchange._tell_observers(outcome)
    if exchange._expects_work:
        exchange._told = outcome
        tell_due(exchange)
        start_due(exchange, outcome)


def _milliseconds(began: int, ended: int | None) -> str:
    return "-" if ended is None else f"{(ended - began) / 1e6:.1f}"


def _end_late_use(exchange: DrivenExchange) -> Steps[None]:
    if exchange._unit.changed and not exchange._again:
        logger.warning(
            "%s: late write: the unit of work was changed after it had ended; the change is rolled back. "
            "Write before the response starts, or commit buffered or after_send",
            exchange.route,
        )
    unit, kind = exchange._unit, exchange._kind
    assert kind is not None
    yield from _clean_up(exchange, unit.rollback, kind.rollback, "roll back its late use")
    yield from _clean_up(exchange, unit.close, kind.close, "close after its late use")


def _tell_failure(exchange: DrivenExchange, what: str, callback: Callable[[Failure], Any] | None = None) -> Steps[None]:
    """Log the failure that refused the response, and hand it to *callback*, or to `on_error`."""
    failure = exchange._failure
    assert failure is not None
    logger.error("%s: %s", exchange.route, what, exc_info=failure.exception)
    yield from _tell(exchange, failure, callback)


def _tell(exchange: DrivenExchange, failure: Failure, callback: Callable[[Failure], Any] | None = None) -> Steps[None]:
    """Hand *failure* to *callback*, or to `on_error`."""
    callback = callback or (exchange._settings.on_error if failure.stage != "commit" else None)
    if callback is not None:
        try:
            yield callback, (failure,), None, None
        except GeneratorExit:
            raise
        except BaseException as error:
            logger.error("%s: %r failed", exchange.route, callback, exc_info=error)
            _keep(exchange, error)


def _run_all(exchange: DrivenExchange, stage: Stage, hooks: list[Any] | None, args: tuple[Any, ...]) -> Steps[None]:
    """Run every hook whatever the others do; what ends a process or a task passes through once all is done."""
    for hook in hooks or ():
        try:
            yield hook, args, None, None
        except GeneratorExit:
            raise
        except FAILURES as error:
            logger.error("%s: the %s hook %r failed", exchange.route, stage, hook, exc_info=error)
            yield from _tell(exchange, Failure(exchange, stage, error, transient=False))
        except BaseException as error:  # noqa: BLE001 (handed on)
            _keep(exchange, error)
