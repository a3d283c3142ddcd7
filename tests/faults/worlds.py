"""What stands behind the middleware: units of work with a store whose truth can be asked.

A world lasts for many requests, as an engine with its pool does. Each order has a number of its own, so that a row of
one request is never taken for that of another.
"""

from collections.abc import Callable
from typing import Any, Protocol

from anyio import to_thread
from anyio.lowlevel import checkpoint

from postresponse.shielding import shielded
from tests.faults.kinds import Broken
from tests.faults.plan import Plan

__all__ = ["AsyncFakes", "Fakes", "Nothing", "World", "on_a_thread"]


class World(Protocol):
    """A store, and the units of work on it."""

    plan: Plan
    """Of the request that is running."""

    def unit_of_work(self, exchange: Any) -> Any:
        """Make the unit of work of a request, as the factory that the middleware is given."""

    def store(self, order: int, *, refused: bool = False) -> None:
        """Write *order* in the current unit of work, one that its commit refuses if so asked; called by a handler."""

    async def astore(self, order: int, *, refused: bool = False) -> None:
        """Do the same on a loop."""

    async def chill(self) -> None:
        """Empty the pool, so that the next request has to connect; for a WSGI request it awaits nothing."""

    def rows(self, order: int) -> int:
        """Count the rows of *order* as anybody else sees them: what is committed."""

    def leaks(self) -> list[str]:
        """Tell what the last request left behind."""

    def close(self) -> None:
        """Give everything back."""


class Nothing:
    """No unit of work, and no store: the middleware only observes."""

    def __init__(self, folder: object = None) -> None:
        self.plan = Plan()

    def unit_of_work(self, exchange: Any) -> Any:
        raise AssertionError("nobody asks for a unit of work where there is none")

    def store(self, order: int, *, refused: bool = False) -> None:
        """There is nothing to write to."""

    async def astore(self, order: int, *, refused: bool = False) -> None:
        """There is nothing to write to."""

    async def chill(self) -> None:
        """There is no pool."""

    def rows(self, order: int) -> int:
        return 0

    def leaks(self) -> list[str]:
        return []

    def close(self) -> None:
        """There is nothing to give back."""


class _Unit:
    """A unit of work over the committed orders of a `Fakes`, whose every call can fail.

    It stands for a connection as well: one that goes back to its pool with its transaction open spoils the next
    request's, and one that died raises at every call until it is given up.
    """

    active = True

    def __init__(self, world: "Fakes") -> None:
        self._world = world
        self._written: list[int] = []
        self._refuses = False
        self._open = self._dead = False
        self.held = False

    def write(self, order: int, *, refused: bool) -> None:
        assert self._open
        self._written.append(order)
        self._refuses = self._refuses or refused

    def begin(self) -> None:
        self._call("begin", self._begin)

    def commit(self) -> None:
        self._call("commit", self._commit)

    def rollback(self) -> None:
        self._call("rollback", self._roll_back)

    def close(self) -> None:
        self._call("close", self._close)

    def invalidate(self) -> None:
        self._call("invalidate", self._give_up)

    def _call(self, name: str, do: Callable[[], None]) -> None:
        self._world.plan.around(f"unit.{name}", do, self._die)

    def _begin(self) -> None:
        self._check_alive()
        self._open = self.held = True

    def _commit(self) -> None:
        self._check_alive()
        if self._refuses:
            raise Broken("the commit is refused")
        self._world.committed.extend(self._written)
        self._end()

    def _roll_back(self) -> None:
        self._check_alive()
        self._end()

    def _close(self) -> None:
        if not self.held:
            return
        self._check_alive()
        self.held = False
        self._world.poisoned = self._world.poisoned or self._open

    def _give_up(self) -> None:
        self.held = self._dead = False
        self._end()

    def _end(self) -> None:
        self._open = False
        self._written.clear()

    def _die(self) -> None:
        self._dead = True
        self._end()

    def _check_alive(self) -> None:
        if self._dead:
            raise Broken("the connection is dead")


class _AsyncUnit(_Unit):
    """The awaitable twin; each call gives the loop a turn before and after it is done."""

    async def begin(self) -> None:  # type: ignore[override]
        await self._call_slowly("begin", self._begin)

    async def commit(self) -> None:  # type: ignore[override]
        await self._call_slowly("commit", self._commit)

    async def rollback(self) -> None:  # type: ignore[override]
        await self._call_slowly("rollback", self._roll_back)

    async def close(self) -> None:  # type: ignore[override]
        await self._call_slowly("close", self._close)

    async def invalidate(self) -> None:  # type: ignore[override]
        await self._call_slowly("invalidate", self._give_up)

    async def _call_slowly(self, name: str, do: Callable[[], None]) -> None:
        async def slowly() -> None:
            await checkpoint()
            do()
            await checkpoint()

        await self._world.plan.around_async(f"unit.{name}", slowly, self._die)


class Fakes:
    """Fake units of work over a store in memory."""

    make: type[_Unit] = _Unit

    def __init__(self, folder: object = None) -> None:
        self.plan = Plan()
        self.committed: list[int] = []
        self.poisoned = False
        self._unit = self.make(self)

    def unit_of_work(self, exchange: Any) -> Any:
        self._unit = self.make(self)
        return self.plan.around("unit.factory", lambda: self._unit)

    def store(self, order: int, *, refused: bool = False) -> None:
        self._unit.write(order, refused=refused)

    async def astore(self, order: int, *, refused: bool = False) -> None:
        await checkpoint()
        self.store(order, refused=refused)

    async def chill(self) -> None:
        """There is no pool."""

    def rows(self, order: int) -> int:
        return self.committed.count(order)

    def leaks(self) -> list[str]:
        found = []
        failed = {fired.fault.call.name for fired in self.plan.fired}
        # Where giving it up failed as well, there is nothing more that anybody could do.
        if self._unit.held and not {"unit.close", "unit.invalidate"} <= failed:
            found.append("a connection that is neither back in its pool nor given up")
        if self.poisoned and not {"unit.rollback", "unit.invalidate"} <= failed:
            found.append("a connection that went back with its transaction open")
        self.poisoned = False
        return found

    def close(self) -> None:
        """There is nothing to give back."""


class AsyncFakes(Fakes):
    """Fake units of work whose calls are awaited."""

    make = _AsyncUnit


async def on_a_thread(call: Callable[[], None]) -> None:
    """Run what blocks as an async application does that never leaves its thread behind, however it is cancelled."""
    raised: list[BaseException] = []

    def kept() -> None:
        try:
            call()
        except BaseException as error:
            raised.append(error)

    await shielded(to_thread.run_sync, kept)
    if raised:
        raise raised[0]
