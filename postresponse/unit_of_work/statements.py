"""What a unit of work keeps of its statements: whether one wrote, is kept already, and what one failed with."""

import copy
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from types import BuiltinFunctionType
from typing import Any, Final

from postresponse.core.policy import is_transient

__all__ = ["detached", "gave_up", "is_kept", "only_reads", "sqlstate_of", "worse_of", "worst_of"]

# What follows EXPLAIN may run, one part of WITH may write, and so may all that stands between BEGIN and END.
_READS: Final = re.compile(
    r"[\s(]*(select|show|values|table|pragma|set|savepoint|release|rollback\s+to|"
    r"((with|explain)\b(?!.*\b(insert|update|delete|merge)\b)))\b"
    r"|\s*begin(\s+(work|transaction|deferred|immediate|exclusive))*[\s;]*$",
    re.IGNORECASE | re.DOTALL,
)

_IDLE: Final = 0
_IN_TRANSACTION: Final = 1

_ALL_LOST: Final = (1020, 1206, 1213)
"""MySQL and MariaDB roll the whole transaction back: the record has changed since the last read, no room for locks, a
deadlock."""

_WAITED_IN_VAIN: Final = 1205

_GIVEN_UP: Final = "25P02"
"""PostgreSQL's answer to every statement behind one that failed: never the reason itself."""


def only_reads(statement: str) -> bool:
    """Tell whether *statement* leaves no row changed, by its look: a SELECT may call a function that writes."""
    return _READS.match(statement) is not None


def is_kept(driver: Any) -> bool:
    """Tell, behind a statement that wrote, whether that is committed: by what the *driver*'s connection says.

    It is in autocommit, and where a statement commits by itself, as DDL does in MySQL and MariaDB. False where the
    driver does not tell whether it is in a transaction.
    """
    inside = getattr(driver, "in_transaction", None)  # sqlite3, aiosqlite, MySQL Connector
    if isinstance(inside, bool):
        return not inside
    status = getattr(getattr(driver, "info", None), "transaction_status", None)  # psycopg, psycopg2: libpq's
    if isinstance(status, int):
        return status == _IDLE
    status = getattr(driver, "server_status", None)  # PyMySQL, asyncmy: the flags of the protocol
    if isinstance(status, int):
        return not status & _IN_TRANSACTION
    ask = getattr(driver, "is_in_transaction", None) or getattr(driver, "get_transaction_status", None)
    return ask is not None and not ask()  # asyncpg, aiomysql


def gave_up(error: BaseException, driver: Any, ask: Callable[[str], Any], *, held: bool) -> bool:
    """Tell, behind a statement that failed, whether the database has rolled back all that came before it.

    The next statement then begins another transaction, and a commit would keep only that. Not so on PostgreSQL, which
    refuses each statement from there on.

    Args:
        error: The driver's.
        driver: Its connection.
        ask: Runs a statement on that, and returns its first row.
        held: Whether the connection was in a transaction that had written, before the statement.
    """
    code = error.args[0] if error.args else None
    if code == _WAITED_IN_VAIN:
        return _rolls_back_on_timeout(ask)
    return code in _ALL_LOST or (held and is_kept(driver))  # SQLite's OR ROLLBACK, and where its disk is full


def _rolls_back_on_timeout(ask: Callable[[str], Any]) -> bool:
    with suppress(Exception):
        return bool(ask("SELECT @@innodb_rollback_on_timeout")[0])
    return True  # nobody knows, so nothing is told to be complete


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
    return _detached(error, frozenset())


def _detached(error: BaseException, around: frozenset[int]) -> BaseException:
    around |= {id(error)}
    found, cause = _copied(error), error.__cause__
    found.__cause__ = None if cause is None or id(cause) in around else _detached(cause, around)
    original = getattr(error, "orig", None)  # SQLAlchemy's name for the driver's
    if isinstance(original, BaseException) and id(original) not in around:
        found.__dict__["orig"] = _detached(original, around)
    return found


def _copied(error: BaseException) -> BaseException:
    """Copy *error* by its own way where it has one, as some drivers' do, or else without a call of its `__init__`.

    That of an application's exception may do anything, and is not made to be called with `args`.
    """
    kind = type(error)
    if kind.__reduce__ is not BaseException.__reduce__:
        with suppress(Exception):
            found = copy.copy(error)
            if isinstance(found, BaseException):
                return found
    base: Any = next(base for base in kind.__mro__ if isinstance(vars(base).get("__new__"), BuiltinFunctionType))
    bare: BaseException = base.__new__(kind, *error.args)
    base.__init__(bare, *error.args)
    bare.__dict__.update(error.__dict__)
    return bare
