"""How a unit of work lets go: rolled back, and closed, each within its limit; else its connection is given up."""

from collections.abc import Callable
from typing import Any

from postresponse.core.driven import DrivenExchange
from postresponse.core.lifecycle import UnitState
from postresponse.core.log import logger
from postresponse.core.steps import Steps, keep
from postresponse.core.units import Manner

__all__ = ["clean_up", "close", "not_cleaned_up", "roll_back"]


def roll_back(exchange: DrivenExchange) -> Steps[None]:
    """Roll back; a connection that does not is given up, and its server ends the transaction."""
    exchange._unit_state = UnitState.ROLLED_BACK
    unit, kind = exchange._unit, exchange._kind
    assert kind is not None
    if not exchange._in_use():
        return
    # Where the handler was left behind on a thread, that may still be at work on the connection.
    at_work = kind.rollback is Manner.BLOCKS and exchange._is_abandoned()
    if not at_work or not (yield from _give_up(exchange)):
        yield from clean_up(exchange, unit.rollback, kind.rollback, "roll back")


def close(exchange: DrivenExchange) -> Steps[None]:
    """Have the unit of work, which has ended, give its connection back."""
    exchange._unit_ended = True
    unit, kind = exchange._unit, exchange._kind
    assert kind is not None
    if exchange._in_use():
        yield from clean_up(exchange, unit.close, kind.close, "close")
    exchange._settled = exchange._settings.clock()


def clean_up(exchange: DrivenExchange, call: Callable[[], Any], manner: Manner, what: str) -> Steps[None]:
    """Call what may hang or fail, within the limit of a clean-up; *what* names it in the log."""
    try:
        yield call, (), manner, exchange._settings.cleanup_timeout
    except GeneratorExit:
        raise
    except BaseException as error:  # noqa: BLE001 (handed on)
        yield from not_cleaned_up(exchange, error, what)


def not_cleaned_up(exchange: DrivenExchange, error: BaseException, what: str) -> Steps[None]:
    """Log that the unit of work could not do *what*, and give its connection up."""
    logger.error("%s: the unit of work could not %s", exchange.route, what, exc_info=error)
    keep(exchange, error)
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
        keep(exchange, error)
        return False
    return True
