"""Work that waits for the end of its response: under which condition it starts, and that each piece starts once."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias

from postresponse.core.lifecycle import Ending, Outcome, UnitState
from postresponse.core.log import logger
from postresponse.exceptions import ConfigurationError

__all__ = ["CONDITIONS", "Condition", "When", "Work", "condition_of", "start_due", "tell_due"]

Condition: TypeAlias = Callable[[Outcome], object]
When: TypeAlias = Literal["committed", "sent", "rolled_back", "aborted", "always"] | Condition

Work: TypeAlias = tuple[Condition, Callable[[Any, Any], object], Any]
"""Registered work: its condition, and what starts it, called with the exchange and the rest."""


def _committed(outcome: Outcome) -> bool:
    if outcome.unit_of_work is not UnitState.NONE:
        return outcome.unit_of_work is UnitState.COMMITTED
    if outcome.exception is not None:
        return False
    return outcome.sent if outcome.status is None else outcome.status < 400  # a scope has no status


CONDITIONS: Final[Mapping[str, Condition]] = MappingProxyType(
    {
        "committed": _committed,
        "sent": lambda outcome: outcome.sent,
        "rolled_back": lambda outcome: outcome.unit_of_work in (UnitState.ROLLED_BACK, UnitState.FAILED),
        "aborted": lambda outcome: outcome.ending is Ending.ABORTED,
        "always": lambda outcome: True,
    }
)
"""The conditions that have a name."""


def condition_of(when: When) -> Condition:
    """Return the condition that *when* names, or is.

    Raises:
        ConfigurationError: It is neither.
    """
    condition = CONDITIONS.get(when) if isinstance(when, str) else when
    if condition is None or not callable(condition):
        raise ConfigurationError(
            f"when: expected {', '.join(map(repr, CONDITIONS))} or a function of the Outcome, found {when!r}"
        )
    return condition


def start_due(exchange: Any, outcome: Outcome) -> None:
    """Start what is due after *outcome*, in the order of registration, and drop the rest.

    Two threads may do it at once: each piece is taken out once.
    """
    work = exchange._work
    while work:
        try:
            condition, start, args = work.popleft()
        except IndexError:
            return
        try:
            if condition(outcome):
                start(exchange, args)
        except Exception as error:
            logger.error("%s: work after the response could not start", exchange.route, exc_info=error)


def tell_due(exchange: Any) -> None:
    """Call what is told whatever becomes of the attempt, even if it is run again; each once."""
    telling = exchange._telling
    while telling:
        try:
            tell = telling.popleft()
        except IndexError:  # another thread took it
            return
        tell()
