"""How the methods of a unit of work are to be called: found out once for each type."""

import dis
import enum
import inspect
from dataclasses import dataclass
from types import CodeType
from typing import Any, Final

from postresponse.exceptions import UnitOfWorkError

__all__ = ["Manner", "UnitKind", "kind_of"]

METHODS: Final = ("begin", "commit", "rollback", "close")


class Manner(enum.Enum):
    """How one method is called."""

    BLOCKS = "blocks"
    """A plain function: under ASGI on a thread."""
    WAITS = "waits"
    """An async function: whoever awaits it may be cancelled meanwhile, and is shielded."""
    AT_ONCE = "at once"
    """An async function without an await in it: it runs to its end in one go, and nothing can come between."""


@dataclass(frozen=True, slots=True)
class UnitKind:
    """What all units of work of one type have in common.

    Attributes:
        lazy: Whether it tells if it was touched.
        is_async: Whether any method has to be awaited.
        manner: How begin, commit and close are called; None if not all in the same manner.
    """

    begin: Manner
    commit: Manner
    rollback: Manner
    close: Manner
    invalidate: Manner
    lazy: bool
    is_async: bool
    manner: Manner | None


def kind_of(unit: Any) -> UnitKind:
    """Return the kind of *unit*.

    Raises:
        UnitOfWorkError: It is none, or something that a unit of work needs is missing.
    """
    kind = _kinds.get(type(unit))
    return kind if kind is not None else _looked_at(unit)


_kinds: Final[dict[type, UnitKind]] = {}


def _looked_at(unit: Any) -> UnitKind:
    if unit is None:
        raise UnitOfWorkError("unit_of_work: the factory returned None; it has to return a unit of work")
    if inspect.iscoroutine(unit):
        unit.close()
        raise UnitOfWorkError("unit_of_work: the factory returned a coroutine; open what takes time in begin()")
    for name in (*METHODS, "active"):
        if not hasattr(unit, name):
            raise UnitOfWorkError(f"unit_of_work: {unit!r} has no {name}; a unit of work needs it")
    begin, commit, rollback, close = manners = [manner_of(getattr(unit, name)) for name in METHODS]
    kind = UnitKind(
        begin,
        commit,
        rollback,
        close,
        invalidate=manner_of(getattr(unit, "invalidate", None)),
        lazy=hasattr(unit, "touched"),
        is_async=any(manner is not Manner.BLOCKS for manner in manners),
        manner=begin if begin is commit is close else None,
    )
    if len(_kinds) < 1000 and all(hasattr(type(unit), name) for name in METHODS):  # else each may be of its own kind
        _kinds[type(unit)] = kind
    return kind


def manner_of(method: Any) -> Manner:
    """Tell how *method* is called."""
    if not inspect.iscoroutinefunction(method):
        return Manner.BLOCKS
    code = getattr(method, "__code__", None)
    if type(code) is not CodeType or not code.co_flags & inspect.CO_COROUTINE:  # a mock says that its code is one
        return Manner.WAITS
    # Every await, `async with` and `async for` is compiled to it, and nothing else can suspend.
    is_awaiting = any(instruction.opname == "SEND" for instruction in dis.get_instructions(code))
    return Manner.WAITS if is_awaiting else Manner.AT_ONCE
