"""How a unit of work is called: told by its methods, once for each type."""

import functools
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import AsyncMock, MagicMock

import pytest

from postresponse.core import units
from postresponse.core.units import Manner, kind_of, manner_of
from postresponse.exceptions import UnitOfWorkError

BLOCKS, WAITS, AT_ONCE = Manner.BLOCKS, Manner.WAITS, Manner.AT_ONCE


def blocks() -> None: ...


async def at_once() -> None:
    blocks()


async def waits() -> None:
    await at_once()


async def items() -> AsyncIterator[int]:
    yield 1


async def loops() -> None:
    async for _ in items():
        pass


@asynccontextmanager
async def entered() -> AsyncIterator[None]:
    yield


async def enters() -> None:
    async with entered():
        pass


@pytest.mark.parametrize(
    ("method", "manner"),
    [
        (blocks, BLOCKS),
        (None, BLOCKS),
        (functools.partial(blocks), BLOCKS),
        (MagicMock(), BLOCKS),
        (at_once, AT_ONCE),
        (waits, WAITS),
        (loops, WAITS),
        (enters, WAITS),
        (functools.partial(at_once), WAITS),  # it has no code that could be looked at
        (AsyncMock(), WAITS),
    ],
)
def test_a_method_is_called_as_its_code_says(method: Any, manner: Manner) -> None:
    assert manner_of(method) is manner


@pytest.mark.skipif(sys.version_info < (3, 12), reason="functions cannot be marked before Python 3.12")
def test_a_plain_function_that_is_marked_as_async_may_wait() -> None:
    import inspect

    def marked() -> Any: ...

    mark: Callable[[Any], Any] = inspect.markcoroutinefunction  # type: ignore[attr-defined, unused-ignore]
    assert manner_of(mark(marked)) is WAITS


def unit_of(*manners: Callable[..., Any] | None, **attributes: Any) -> Any:
    """A unit of work of its own type, with these methods: begin, commit, rollback, close and perhaps invalidate."""
    names = ("begin", "commit", "rollback", "close", "invalidate")
    methods = {name: staticmethod(method) for name, method in zip(names, manners, strict=False) if method is not None}
    return type("Unit", (), {"active": True, **methods, **attributes})()


def test_each_method_is_looked_at_by_itself() -> None:
    kind = kind_of(unit_of(blocks, at_once, waits, blocks, at_once))
    assert (kind.begin, kind.commit, kind.rollback, kind.close) == (BLOCKS, AT_ONCE, WAITS, BLOCKS)
    assert (kind.invalidate, kind.manner, kind.is_async, kind.lazy) == (AT_ONCE, None, True, False)


@pytest.mark.parametrize(
    ("methods", "manner"),
    [
        ((blocks, blocks, waits, blocks), BLOCKS),
        ((at_once, at_once, waits, at_once), AT_ONCE),
        ((blocks, at_once, blocks, blocks), None),
        ((blocks, blocks, blocks, at_once), None),
        ((at_once, blocks, blocks, blocks), None),
    ],
)
def test_begin_commit_and_close_in_one_manner_are_known_for_it(
    methods: tuple[Callable[..., Any], ...], manner: Manner | None
) -> None:
    assert kind_of(unit_of(*methods)).manner is manner


def test_a_unit_that_tells_whether_it_was_touched_is_lazy() -> None:
    assert kind_of(unit_of(blocks, blocks, blocks, blocks, touched=False)).lazy


@pytest.fixture
def _unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if no unit of work had been looked at: so many types are kept, and no more."""
    monkeypatch.setattr(units, "_kinds", {})


@pytest.mark.usefixtures("_unseen")
def test_a_type_is_looked_at_once() -> None:
    unit = unit_of(blocks, blocks, blocks, blocks)
    assert kind_of(unit) is kind_of(type(unit)())


@pytest.mark.usefixtures("_unseen")
def test_units_that_carry_their_methods_themselves_are_each_of_their_own_kind() -> None:
    class Unit:
        active = True

        def __init__(self, method: Callable[[], Any]) -> None:
            self.begin = self.commit = self.rollback = self.close = method

    assert kind_of(Unit(blocks)).manner is BLOCKS
    assert kind_of(Unit(at_once)).manner is AT_ONCE


def test_what_is_no_unit_of_work_is_refused_by_what_it_lacks() -> None:
    for made, said in (
        (None, "unit_of_work: the factory returned None; it has to return a unit of work"),
        (at_once(), "unit_of_work: the factory returned a coroutine; open what takes time in begin()"),
    ):
        with pytest.raises(UnitOfWorkError) as caught:
            kind_of(made)
        assert str(caught.value) == said
    whole = {"begin": blocks, "commit": blocks, "rollback": blocks, "close": blocks, "active": True}
    for name in whole:
        made = MagicMock(spec=[other for other in whole if other != name])
        with pytest.raises(UnitOfWorkError) as caught:
            kind_of(made)
        assert str(caught.value) == f"unit_of_work: {made!r} has no {name}; a unit of work needs it"
