"""How an exchange ends: what is open is settled, what was used too late is cleaned up, and the outcome is told."""

import logging

from postresponse.core.driven import DrivenExchange
from postresponse.core.log import access, logger
from postresponse.core.release import clean_up, close, roll_back
from postresponse.core.settlement import run_after_hooks, settle
from postresponse.core.steps import Steps, keep, let_pass, run_all, tell_failure
from postresponse.core.work import start_due, tell_due

__all__ = ["finish"]


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
            keep(exchange, error)
    if exchange._silenced and not exchange._again:  # it was cancelled, and is the last attempt after all
        yield from run_after_hooks(exchange)
        if exchange._failure is not None:
            is_commit = exchange._failure.stage in ("before_commit", "commit")
            callback = exchange._settings.on_commit_failed if is_commit else None
            yield from tell_failure(exchange, "it failed, and is not run again", callback)
    if not (exchange._unheard and exchange._commits is None) and not exchange._again:
        yield from _report(exchange)
    at_end, exchange._at_end = exchange._at_end, None
    yield from run_all(exchange, "on_finished", at_end, ())
    if exchange._again and exchange._passing is not None:  # it ends all, and there is no other attempt to be told of
        exchange._again = False
        yield from finish(exchange)
    let_pass(exchange)


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
            yield from roll_back(exchange)
            yield from close(exchange)
        raise


def _report(exchange: DrivenExchange) -> Steps[None]:
    outcome = exchange._outcome(exchange._settings.clock())
    hooks = list(reversed(exchange._on_finished or ()))
    if exchange._settings.on_finished is not None:
        hooks.append(exchange._settings.on_finished)
    yield from run_all(exchange, "on_finished", hooks, (outcome,))
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
    yield from clean_up(exchange, unit.rollback, kind.rollback, "roll back its late use")
    yield from clean_up(exchange, unit.close, kind.close, "close after its late use")
