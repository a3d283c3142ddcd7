"""The exchange of the request that is being handled, and what a handler says without naming it."""

import functools
import inspect
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final, Literal, ParamSpec, TypeVar, cast, overload

from postresponse.core.exchange import Exchange
from postresponse.core.policy import CommitPolicy
from postresponse.exceptions import ConfigurationError, NoExchange

__all__ = ["commit_policy", "current", "current_exchange", "doom", "force_commit", "in_job"]

current: Final[ContextVar[Exchange | None]] = ContextVar("postresponse_exchange", default=None)
"""Set by the adapters for the time of a request."""

in_job: Final[ContextVar[bool]] = ContextVar("postresponse_in_job", default=False)
"""Set where work runs that a request has started: it has that request's context, and is no part of it."""


def current_exchange() -> Exchange:
    """Return the exchange of the request that is being handled.

    Raises:
        NoExchange: There is none: called outside of a request, or the middleware is not installed.
    """
    exchange = current.get()
    if exchange is None:
        raise NoExchange(
            "there is no current exchange: call it while a request is handled, and wrap the application in "
            "postresponse.asgi.PostResponseMiddleware or postresponse.wsgi.PostResponseMiddleware"
        )
    return exchange


def doom(reason: str = "") -> None:
    """Roll back the current request's unit of work whatever the status says; see `Exchange.doom`."""
    current_exchange().doom(reason)


def force_commit() -> None:
    """Commit the current request's unit of work whatever the status says; see `Exchange.force_commit`."""
    current_exchange().force_commit()


P = ParamSpec("P")
R = TypeVar("R")


@overload
def commit_policy(
    at: CommitPolicy | Literal["head", "buffered", "after_send"], /, **changes: Any
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...
@overload
def commit_policy(**changes: Any) -> Callable[[Callable[P, R]], Callable[P, R]]: ...
def commit_policy(at: Any = None, /, **changes: Any) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Give a view its own `CommitPolicy`: a whole one, the name of a commit point, or single options changed.

    The view may be sync or async. The policy is set each time that the view is called, so that of two decorated
    functions that call each other the inner one wins.

    Raises:
        ConfigurationError: An option that does not exist, or a value that it cannot have.

    Example:
        >>> @commit_policy("buffered", max_memory=65536)
        ... def report(): ...
    """
    if isinstance(at, str):
        changes = {"at": at, **changes}
    elif at is not None and not isinstance(at, CommitPolicy):
        raise ConfigurationError(
            f"commit_policy() takes a CommitPolicy, the name of a commit point or its options, found {at!r}"
        )
    whole = at if isinstance(at, CommitPolicy) else None
    (whole or CommitPolicy()).but(changes)

    def apply() -> None:
        exchange = current_exchange()
        exchange.policy = (whole or exchange.policy).but(changes)

    def decorate(view: Callable[P, R]) -> Callable[P, R]:
        if not callable(view):
            raise TypeError(f"commit_policy() decorates a view, found {view!r}")
        if inspect.iscoroutinefunction(view):

            @functools.wraps(view)
            async def awaited(*args: P.args, **kwargs: P.kwargs) -> Any:
                apply()
                return await view(*args, **kwargs)

            return cast("Callable[P, R]", awaited)

        @functools.wraps(view)
        def called(*args: P.args, **kwargs: P.kwargs) -> R:
            apply()
            return view(*args, **kwargs)

        return called

    return decorate
