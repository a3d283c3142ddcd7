"""Several units of work as one: what every composite shares, written once for both kinds of caller.

A rule is a generator of `Call`s to members. A twin makes each call, or awaits it, and hands back its result, or what it
raised. The core sees one unit of work, and keeps its promises to it; the rules here keep the same ones to each member:

- One that nobody touched is not called at all, and one that the handler ended itself is only closed.
- Each is rolled back and closed whatever the others do. One that fails to is given up; its error is logged here.
- `cleanup_timeout` is shared out: each member has an equal part of it, and one part more is for giving up.
"""

import inspect
from collections.abc import Callable, Generator
from typing import Any, Final, NamedTuple, TypeVar
from weakref import ref

from postresponse.core.exchange import Exchange
from postresponse.core.log import logger
from postresponse.shielding import time_limit
from postresponse.unit_of_work.statements import worst_of
from postresponse.watchdog import within

__all__ = ["ERRORS", "AsyncUnit", "Call", "Calls", "Member", "Members", "SyncUnit"]

T = TypeVar("T")


ERRORS: Final = (Exception, SystemExit)
"""What is dealt with; anything else ends a task or a process, and passes once every member was seen to."""


class Member:
    """One of several units of work, and what has become of it.

    Attributes:
        name: What it is called by in errors and logs.
        unit: The unit of work.
        settled: Committed, rolled back or given up, since it was made or closed.
        closed: Closed once.
    """

    __slots__ = ("closed", "name", "settled", "unit")

    def __init__(self, name: str, unit: Any) -> None:
        self.name: str = name
        self.unit: Any = unit
        self.settled: bool = False
        self.closed: bool = False

    @property
    def touched(self) -> bool:
        """Whether it has to be ended; a unit that does not say counts as touched until it is closed."""
        return bool(getattr(self.unit, "touched", not self.closed))

    @property
    def takes_part(self) -> bool:
        return self.touched and self.unit.active


class Call(NamedTuple):
    """One thing that a twin has to do.

    Attributes:
        member: On whose behalf.
        call: What to call; what it returns is awaited by the async twin if it can be.
        limit: Seconds that it may take; None for as long as it takes.
    """

    member: Member
    call: Callable[[], Any]
    limit: float | None = None


Calls = Generator[Call, Any, T]


class Members:
    """The units of work of one exchange, in order, and the rules by which they end.

    Args:
        members: In the order of their commits.
        exchange: Theirs; not kept alive.
    """

    __slots__ = ("_due", "_exchange", "_limit", "members", "running")

    def __init__(self, members: tuple[Member, ...], exchange: Exchange) -> None:
        self.members: tuple[Member, ...] = members
        self.running: Member | None = None
        self._due: list[Member] | None = None
        self._exchange = ref(exchange)
        self._limit = exchange._settings.cleanup_timeout / (len(members) + 1)

    # -- what the core asks, of all of them ---------------------------------------------------------------------

    @property
    def touched(self) -> bool:
        return any(member.touched for member in self.members)

    @property
    def active(self) -> bool:
        touched = [member for member in self.members if member.touched]
        return not touched or any(member.unit.active for member in touched)

    @property
    def changed(self) -> bool:
        return any(member.touched and getattr(member.unit, "changed", False) for member in self.members)

    @property
    def committed(self) -> bool:
        return any(getattr(member.unit, "committed", False) for member in self.members)

    @property
    def statement_error(self) -> BaseException | None:
        return worst_of(getattr(member.unit, "statement_error", None) for member in self.members)

    @property
    def route(self) -> str:
        """Method and route of the exchange, for a log line."""
        exchange = self._exchange()
        return "a finished request" if exchange is None else exchange.route

    # -- how they begin and end ---------------------------------------------------------------------------------

    def begin(self) -> Calls[None]:
        """Begin those that are touched, in order; behind one that cannot, none is ended that has not begun."""
        touched = [member for member in self.members if member.touched]
        for number, member in enumerate(touched, 1):
            try:
                yield Call(member, member.unit.begin)
            except GeneratorExit:
                raise
            except BaseException:
                self._due = touched[:number]
                for behind in touched[number:]:
                    behind.closed = True
                raise

    def flush(self) -> Calls[None]:
        """Let those that take part send what they hold, in order; most of what can fail does so then."""
        for member in self.members:
            flush = getattr(member.unit, "flush", None) if member.takes_part else None
            if flush is not None:
                yield Call(member, flush)

    def commit(self) -> Calls[None]:
        """Commit those that take part, each kind of composite by its own rule."""
        raise NotImplementedError

    def rollback(self) -> Calls[None]:
        """Roll back those that take part, in reverse; after a commit that failed, those that it did not commit."""
        yield from _raise(self._roll_back_all(self._open()))

    def close(self) -> Calls[None]:
        """Close those that are touched."""
        yield from _raise(self._close_all())

    def invalidate(self) -> Calls[None]:
        """Give up those that are neither committed nor rolled back."""
        yield from _raise(self._give_up_all())

    def _open(self) -> list[Member]:
        """Those that are still to be ended; where a commit was tried, of those that it was to commit."""
        due = self._due if self._due is not None else [member for member in self.members if member.takes_part]
        return [member for member in due if not member.settled]

    # -- how they are cleaned up: each returns what has to pass, once all of them were seen to ------------------

    def _roll_back_all(self, members: list[Member]) -> Calls[BaseException | None]:
        passing: BaseException | None = None
        for member in reversed(members):
            passing = (yield from self._clean_up(member, member.unit.rollback, "roll back")) or passing
        return passing

    def _close_all(self) -> Calls[BaseException | None]:
        passing: BaseException | None = None
        for member in self.members:
            if member.touched:
                passing = (yield from self._clean_up(member, member.unit.close, "close")) or passing
            member.closed, member.settled = True, False
        self._due = None
        return passing

    def _give_up_all(self) -> Calls[BaseException | None]:
        passing: BaseException | None = None
        for member in self.members:
            if member.touched and not member.settled:
                passing = (yield from self._give_up(member)) or passing
        return passing

    def _clean_up(self, member: Member, call: Callable[[], Any], what: str) -> Calls[BaseException | None]:
        try:
            yield Call(member, call, self._limit)
        except GeneratorExit:
            raise
        except BaseException as error:
            logger.error("%s: %s could not %s", self.route, member.name, what, exc_info=error)
            passing = yield from self._give_up(member)
            return passing if isinstance(error, ERRORS) else error
        member.settled = True
        return None

    def _give_up(self, member: Member) -> Calls[BaseException | None]:
        give_up = getattr(member.unit, "invalidate", None)
        try:
            if give_up is not None:
                yield Call(member, give_up, self._limit)
        except GeneratorExit:
            raise
        except BaseException as error:
            logger.error("%s: the connection of %s could not be given up", self.route, member.name, exc_info=error)
            return None if isinstance(error, ERRORS) else error
        member.settled = True
        return None


def _raise(cleaning_up: Calls[BaseException | None]) -> Calls[None]:
    passing = yield from cleaning_up
    if passing is not None:
        raise passing


# -- the twins ---------------------------------------------------------------------------------------------------------


class _Twin:
    """What the core takes for one unit of work."""

    __slots__ = ("_members",)

    def __init__(self, members: Members) -> None:
        self._members = members

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {', '.join(member.name for member in self._members.members)}>"

    @property
    def touched(self) -> bool:
        return self._members.touched

    @property
    def active(self) -> bool:
        return self._members.active

    @property
    def changed(self) -> bool:
        return self._members.changed

    @property
    def committed(self) -> bool:
        return self._members.committed

    @property
    def statement_error(self) -> BaseException | None:
        return self._members.statement_error


class SyncUnit(_Twin):
    """Several sync units of work as one."""

    __slots__ = ()

    def begin(self) -> None:
        self._perform(self._members.begin())

    def flush(self) -> None:
        self._perform(self._members.flush())

    def commit(self) -> None:
        self._perform(self._members.commit())

    def rollback(self) -> None:
        self._perform(self._members.rollback())

    def close(self) -> None:
        self._perform(self._members.close())

    def invalidate(self) -> None:
        self._perform(self._members.invalidate())

    def sever(self) -> None:
        """Cut off the member whose clean-up hangs, from another thread."""
        sever = getattr(self._members.running and self._members.running.unit, "sever", None)
        if sever is not None:
            sever()

    def _perform(self, calls: Calls[None]) -> None:
        try:
            call = next(calls)
            while True:
                self._members.running = call.member
                try:
                    result = within(call.limit, call.call, (), call.member.unit)
                except BaseException as error:  # noqa: BLE001 (handed to the rules)
                    call = calls.throw(error)
                else:
                    call = calls.send(result)
        except StopIteration:
            return


class AsyncUnit(_Twin):
    """Several async units of work as one."""

    __slots__ = ()

    async def begin(self) -> None:
        await self._perform(self._members.begin())

    async def flush(self) -> None:
        await self._perform(self._members.flush())

    async def commit(self) -> None:
        await self._perform(self._members.commit())

    async def rollback(self) -> None:
        await self._perform(self._members.rollback())

    async def close(self) -> None:
        await self._perform(self._members.close())

    async def invalidate(self) -> None:
        await self._perform(self._members.invalidate())

    async def _perform(self, calls: Calls[None]) -> None:
        try:
            call = next(calls)
            while True:
                try:
                    result = await _made(call)
                except BaseException as error:  # noqa: BLE001 (handed to the rules)
                    call = calls.throw(error)
                else:
                    call = calls.send(result)
        except StopIteration:
            return


async def _made(call: Call) -> Any:
    result = call.call()
    if not inspect.isawaitable(result):
        return result
    if call.limit is None:
        return await result
    async with time_limit(call.limit):
        return await result
