"""FastAPI: a commit inside of the application's own stack, where its handlers can catch a failure.

FastAPI applications are Starlette applications: `postresponse.integrations.starlette.rendered_by` lets their exception
handlers render a commit that failed at the head. The dependency here goes one step further in: the commit runs when
the path operation has returned and before its response starts, so that whatever wraps it sees the error itself.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any, Final, Protocol

from fastapi import Depends
from fastapi.requests import HTTPConnection

from postresponse.asgi.exchange import ASGIExchange
from postresponse.core.current import current_exchange
from postresponse.exceptions import ConfigurationError, NoExchange

__all__ = ["commit_inside", "session_of"]


async def _commit_inside(connection: HTTPConnection) -> AsyncIterator[None]:
    yield
    if connection.scope["type"] == "websocket":  # has no response, and no exchange
        return
    exchange = current_exchange()
    assert isinstance(exchange, ASGIExchange)
    await exchange._commit_early()


commit_inside: Final[Any] = Depends(_commit_inside, scope="function")
"""A dependency that commits the request's unit of work when the path operation has returned.

A commit that fails raises out of it, inside of FastAPI's stack: exception handlers by class answer it as they answer
any other error. What they answer stands; where none does, or where nobody knows whether the transaction committed and
the answer is 500 or above, it is as with a commit at the head.

It commits when the path operation *returned*, whatever status it returned: raise an `HTTPException` to roll back, or
call `doom()`. It does not fire for an operation that raised. Its scope is the function's: with FastAPI's default, the
request's, it would run behind the response. For a WebSocket it does nothing: there is no unit of work.

Raises:
    NoUnitOfWork: The middleware around the application only observes.

Example:
    >>> from fastapi import FastAPI
    >>> app = FastAPI(dependencies=[commit_inside])
"""


class _HasSession(Protocol):
    @property
    def session(self) -> Any: ...


@dataclass(frozen=True)
class _Session:
    """The dependency: equal for the same units of work, so that it can be found again to be overridden."""

    db: _HasSession

    async def __call__(self, connection: HTTPConnection, committed: Annotated[None, commit_inside]) -> Any:
        if connection.scope["type"] == "websocket":
            raise NoExchange.in_websocket()
        return self.db.session


def session_of(db: _HasSession) -> Any:
    """Make a dependency that gives this request's session, and commits it when the path operation has returned.

    The session is the one of the request's unit of work, which the middleware around the application makes. It commits
    by `commit_inside`, of which it has all: a commit that fails raises inside of FastAPI, so that an exception handler
    by class answers it; a path operation that raises, `HTTPException` too, rolls back; one that returns commits,
    whatever the status. The body of a streaming response and background tasks run behind the commit.

    Operations may be sync or async, whatever the unit of work is. Of several dependencies each commits nothing again:
    there is one unit of work a request. A dependency with `yield` that takes the session has to be of function scope as
    well, `Depends(..., scope="function")`, which FastAPI insists on.

    In a test, `app.dependency_overrides[session_of(db).dependency]` stands for it.

    Args:
        db: A unit of work that has a `session`: `SQLAlchemyUnitOfWork`, `AsyncSQLAlchemyUnitOfWork`, or a member of
            several.

    Raises:
        ConfigurationError: *db* has no session.
        NoExchange: There is no middleware around the application, it has another unit of work, or this is a WebSocket;
            raised in the request.

    Example:
        >>> from typing import Annotated
        >>> from sqlalchemy.orm import Session, sessionmaker
        >>> from postresponse.unit_of_work.sqlalchemy import SQLAlchemyUnitOfWork
        >>> db = SQLAlchemyUnitOfWork(sessionmaker())
        >>> RequestSession = Annotated[Session, session_of(db)]
        >>> def place(session: RequestSession) -> None: ...
    """
    if not hasattr(type(db), "session"):
        raise ConfigurationError(
            f"session_of: expected a unit of work that has a session, as SQLAlchemyUnitOfWork, found {db!r}"
        )
    return Depends(_Session(db), scope="function")
