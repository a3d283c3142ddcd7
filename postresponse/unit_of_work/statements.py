"""What a unit of work keeps of its statements: whether one may have written, and what one failed with."""

import copy
import re
from collections.abc import Iterable
from typing import Final

from postresponse.core.policy import is_transient

__all__ = ["detached", "only_reads", "sqlstate_of", "worse_of", "worst_of"]

# What follows EXPLAIN may run, and one part of WITH may write.
_READS: Final = re.compile(
    r"[\s(]*(select|show|values|table|pragma|((with|explain)\b(?!.*\b(insert|update|delete|merge)\b)))\b",
    re.IGNORECASE | re.DOTALL,
)

_GIVEN_UP: Final = "25P02"
"""PostgreSQL's answer to every statement behind one that failed: never the reason itself."""


def only_reads(statement: str) -> bool:
    """Tell whether *statement* reads and nothing else, by its look: a SELECT may call a function that writes."""
    return _READS.match(statement) is not None


def sqlstate_of(error: BaseException) -> str | None:
    """Return the SQLSTATE of a driver's *error*, or of one around it; by either name that drivers have for it."""
    error = getattr(error, "orig", None) or error
    state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    return state if isinstance(state, str) else None


def worse_of(earlier: BaseException | None, later: BaseException) -> BaseException:
    """Return the error to remember of two: a transient one before others, else the later one, as a copy of its own."""
    if earlier is not None and (is_transient(earlier) or sqlstate_of(later) == _GIVEN_UP):
        return earlier
    return detached(later)


def worst_of(errors: Iterable[BaseException | None]) -> BaseException | None:
    """Return the transient one of several errors, or else the last."""
    found = [error for error in errors if error is not None]
    return next(filter(is_transient, found), found[-1] if found else None)


def detached(error: BaseException) -> BaseException:
    """Copy *error* and what caused it without their tracebacks.

    A traceback holds frames, these the session and the exchange, and those what remembers the error: a cycle.
    """
    try:
        found = copy.copy(error)
    except TypeError:  # one that cannot be made from its `args`
        found = type(error).__new__(type(error), *error.args)
        found.__dict__.update(error.__dict__)
    found.__cause__ = None if error.__cause__ is None else detached(error.__cause__)
    original = getattr(error, "orig", None)  # SQLAlchemy's name for the driver's
    if isinstance(original, BaseException):
        found.orig = detached(original)  # type: ignore[attr-defined]
    return found
