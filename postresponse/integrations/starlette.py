"""The exception handlers of a Starlette or FastAPI application render what the unit of work did to a response.

Starlette's own two middlewares look for the handler, in front of an application that does nothing but raise. They are
put together anew for each failure, so that a handler which was added late is found too.
"""

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from starlette.applications import Starlette
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.types import ASGIApp, ExceptionHandler, Message, Receive, Scope, Send

from postresponse.core.exchange import Failure
from postresponse.core.log import logger
from postresponse.error_response import ErrorResponse, asgi_response
from postresponse.exceptions import ConfigurationError, PostResponseError

__all__ = ["rendered_by"]


def rendered_by(app: Starlette) -> Callable[[Failure], Awaitable[ErrorResponse | None]]:
    """Make an `error_response` that lets the exception handlers of *app* answer; FastAPI applications are Starlette's.

    A handler is found as for an exception that an endpoint raises: by class along the MRO, then the one of 500 or
    `Exception`. Those of a mounted Starlette application that handled the request come before those of *app*. Debug
    mode changes nothing: no traceback is shown.

    The application's middlewares do not see the response, because they have passed the one that it replaces. What has
    to be on every response, such as the headers of CORSMiddleware, belongs outside of this package's middleware. The
    handler's request has what they put into its scope (`state`, `session`, `user`); its body has been read, and is
    empty here.

    The package's default answers where no handler is found, or one fails. It also answers where nobody knows what was
    committed (`CommitInDoubt`, `PartialCommit`), unless a handler is registered for that class, or for another one of
    `postresponse.exceptions`: a general page would say that nothing was.

    Args:
        app: The application itself, and not one that is wrapped around it.

    Raises:
        ConfigurationError: *app* is something else.

    Example:
        >>> from postresponse.asgi import PostResponseMiddleware
        >>> api = Starlette()
        >>> app = PostResponseMiddleware(api, error_response=rendered_by(api))
    """
    if not isinstance(app, Starlette):
        raise ConfigurationError(f"rendered_by: expected the Starlette or FastAPI application itself, found {app!r}")

    async def error_response(failure: Failure) -> ErrorResponse | None:
        error = failure.exception
        if not isinstance(error, Exception):
            return None
        traceback = error.__traceback__
        try:
            for owner in _owners(app, failure):
                response = await _rendered(owner, failure, error)
                if response is not None:
                    return response
            return None
        finally:
            error.__traceback__ = traceback  # Starlette drops it, and whoever gets the exception later wants to see it

    return error_response


def _owners(app: Starlette, failure: Failure) -> Iterator[Starlette]:
    """Give the application that handled the request, then the one that all of it belongs to."""
    innermost = failure.exchange.scope.get("app")
    # Where it could not begin, none of them has seen the request: that one is around the middleware.
    if isinstance(innermost, Starlette) and innermost is not app and failure.stage != "begin":
        yield innermost
    yield app


async def _rendered(owner: Starlette, failure: Failure, error: Exception) -> ErrorResponse | None:
    try:
        return await asgi_response(_answering(owner, failure, error), {**failure.exchange.scope, "app": owner})
    except Exception as raised:
        if raised is error:
            return None
        raise


def _answering(owner: Starlette, failure: Failure, error: Exception) -> ASGIApp:
    """Make the application that answers as *owner* does when an endpoint raises, and raises what nobody handles."""

    async def failed(scope: Scope, receive: Receive, send: Send) -> None:
        raise error

    by_class, otherwise = _handlers(owner, own=failure.unknown or failure.partial)
    handling: ASGIApp = ExceptionMiddleware(failed, handlers=by_class)
    if otherwise is not None:
        handling = ServerErrorMiddleware(handling, handler=otherwise)

    async def answering(scope: Scope, receive: Receive, send: Send) -> None:
        whole = False

        async def sending(message: Message) -> None:
            nonlocal whole
            await send(message)
            whole = message["type"] == "http.response.body" and not message.get("more_body", False)

        try:
            await handling(scope, receive, sending)
        except Exception as raised:
            # What it has answered ServerErrorMiddleware raises all the same, for the server to log.
            if not whole:
                raise
            if raised is not error:
                logger.error("%s: an exception handler failed", failure.exchange.route, exc_info=raised)

    return answering


def _handlers(owner: Starlette, *, own: bool) -> tuple[dict[Any, ExceptionHandler], ExceptionHandler | None]:
    """Part the handlers of *owner* into those by class or status, and the one for all else; or only this package's."""
    by_class: dict[Any, ExceptionHandler] = {}
    otherwise: ExceptionHandler | None = None
    for key, handler in owner.exception_handlers.items():
        if key in (500, Exception):
            otherwise = handler
        else:
            by_class[key] = handler
    if own:
        classes = [key for key in by_class if isinstance(key, type) and issubclass(key, PostResponseError)]
        return {kind: by_class[kind] for kind in classes}, None
    return by_class, otherwise
