"""How a unit of work begins and ends, and in which order the hooks run: written once, for both kinds of caller.

The return value of most of these steps is the `Event` for the table.
"""

from collections.abc import Callable
from typing import Any, Final

from postresponse.core.driven import DrivenExchange
from postresponse.core.exchange import Failure, Stage
from postresponse.core.headers import check_headers
from postresponse.core.lifecycle import MOVES, Event, UnitState
from postresponse.core.log import logger
from postresponse.core.policy import COMMIT, ROLL_BACK
from postresponse.core.release import close, not_cleaned_up, roll_back
from postresponse.core.steps import FAILURES, Steps, keep, let_pass, run_all, tell_failure
from postresponse.core.units import UnitKind, kind_of
from postresponse.core.work import tell_due
from postresponse.exceptions import BodyTooLarge, MessageOrderError, WrongApplication

__all__ = ["begin_unit", "commit_early", "made_unit", "not_begun", "not_closed", "not_committed", "refuse"]
__all__ += ["run_after_hooks", "run_start_hooks", "settle", "told"]

# A member of an enum is dear to look up before Python 3.12, and these are on every request's way.
SETTLED: Final = Event.SETTLED
COMMITTED: Final = UnitState.COMMITTED


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
    yield from tell_failure(exchange, "an on_start hook failed")
    let_pass(exchange)
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
        yield from roll_back(exchange)
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
        yield from roll_back(exchange)
        return (yield from _end(exchange, what))
    yield from tell_failure(exchange, what)
    let_pass(exchange)
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
    keep(exchange, error)
    yield from roll_back(exchange)
    exchange._unit_state = UnitState.UNKNOWN if failure.unknown else UnitState.FAILED
    return (yield from _end(exchange, "the unit of work could not commit", exchange._settings.on_commit_failed))


def not_closed(exchange: DrivenExchange, error: BaseException) -> Steps[Event]:
    """Give the connection up of a unit of work that committed and could not be closed."""
    yield from not_cleaned_up(exchange, error, "close")
    exchange._settled = exchange._settings.clock()
    return (yield from told(exchange))


def _end(exchange: DrivenExchange, failed: str = "", callback: Callable[[Failure], Any] | None = None) -> Steps[Event]:
    """Release the connection and tell of the end; or `AGAIN`, and nothing is told of an attempt that is discarded.

    Args:
        failed: What could not be done, where the response is refused for it.
        callback: Told of that; None for `on_error`.
    """
    yield from close(exchange)
    return (yield from told(exchange, failed, callback))


def told(exchange: DrivenExchange, failed: str = "", callback: Callable[[Failure], Any] | None = None) -> Steps[Event]:
    """Tell of the end of a unit of work whose connection is released, as `_end` has it."""
    state = exchange._unit_state
    if state is not COMMITTED and state is not UnitState.NONE and _runs_again(exchange):
        return Event.AGAIN
    yield from run_after_hooks(exchange)
    if failed:
        yield from tell_failure(exchange, failed, callback)
    let_pass(exchange)
    return Event.REFUSED if failed else SETTLED


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


def run_after_hooks(exchange: DrivenExchange) -> Steps[None]:
    """Run the hooks for a commit or a rollback, in the order of registration."""
    if exchange._unit_state is UnitState.COMMITTED:
        yield from run_all(exchange, "after_commit", exchange._after_commit, ())
    elif exchange._unit_state in (UnitState.ROLLED_BACK, UnitState.FAILED):
        yield from run_all(exchange, "after_rollback", exchange._after_rollback, ())
