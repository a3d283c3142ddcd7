"""Public aliases and Protocols.

ASGI types are loose on purpose: frameworks disagree on the exact mapping types of scope and message, and a stricter
alias would fail their users under mypy and pyright. WSGI types are the standard library's, from `wsgiref.types`.
"""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Protocol, runtime_checkable
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = [
    "ASGIApplication",
    "AsyncUnitOfWork",
    "LazyUnit",
    "Message",
    "Receive",
    "Scope",
    "Send",
    "StartResponse",
    "UnitOfWork",
    "WSGIApplication",
    "WSGIEnvironment",
]

Scope = MutableMapping[str, Any]
Message = Mapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[Any]]
ASGIApplication = Callable[[Any, Any, Any], Awaitable[Any]]


class UnitOfWork(Protocol):
    """What begins with a request and is committed or rolled back once, at the moment that the policy names.

    The four methods are called in this order and never interrupted: `begin` before the application runs, then
    `commit` or `rollback` (after a failed `commit` always `rollback`), then `close`. Under ASGI they run on a thread.
    A unit may also have the attributes of `LazyUnit`.
    """

    @property
    def active(self) -> bool:
        """False once the handler ended the unit of work itself: then it is left alone."""

    def begin(self) -> None:
        """Begin."""

    def commit(self) -> None:
        """Commit, or raise."""

    def rollback(self) -> None:
        """Roll back; called for a unit that did nothing as well."""

    def close(self) -> None:
        """Give the connection back; called once the unit has ended, however it ended."""


class AsyncUnitOfWork(Protocol):
    """The awaitable form of `UnitOfWork`: the same promises, and the four methods are awaited. For ASGI only."""

    @property
    def active(self) -> bool:
        """False once the handler ended the unit of work itself: then it is left alone."""

    async def begin(self) -> None:
        """Begin."""

    async def commit(self) -> None:
        """Commit, or raise."""

    async def rollback(self) -> None:
        """Roll back; called for a unit that did nothing as well."""

    async def close(self) -> None:
        """Give the connection back; called once the unit has ended, however it ended."""


@runtime_checkable
class LazyUnit(Protocol):
    """What a unit of work may have besides, to cost nothing untouched and to be cleaned up after the response.

    Methods belong to the class, which is looked at once. For `Retry` a unit may also have `statement_error`, the error
    of a statement that it saw in its transaction though somebody caught it (one that passes is kept over others), and
    `committed`, whether the handler committed a part itself: a request that did is not run again. Both are asked for
    after `close`.
    """

    @property
    def touched(self) -> bool:
        """False while nothing used it since it was made or closed: its methods are then not called at all."""

    @property
    def changed(self) -> bool:
        """True if it holds changes that were not committed; asked after the response, for the late-write warning."""

    def invalidate(self) -> Any:
        """Give up the connection instead of returning it to its pool: a clean-up failed or took too long.

        Awaited for an `AsyncUnitOfWork`, after the call that hung was cancelled. A `UnitOfWork` may have a `sever` as
        well, called from another thread while the clean-up still hangs: it makes that call return.
        """
