"""FastAPI: a commit inside of the application's own stack, where its handlers can catch a failure.

FastAPI applications are Starlette applications: `postresponse.integrations.starlette.rendered_by` lets their exception
handlers render a commit that failed at the head. The dependency here goes one step further in: the commit runs when
the path operation has returned and before its response starts, so that whatever wraps it sees the error itself.
"""

from collections.abc import AsyncIterator
from typing import Any, Final

from fastapi import Depends
from fastapi.requests import HTTPConnection

from postresponse.asgi.exchange import ASGIExchange
from postresponse.core.current import current_exchange

__all__ = ["commit_inside"]


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
