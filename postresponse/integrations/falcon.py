"""Falcon, for WSGI and ASGI: an application wrapped in one line, its routes in the log, its error handlers' answers."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, overload

import falcon
import falcon.asgi

from postresponse import asgi, wsgi
from postresponse.configuration import effective
from postresponse.core.exchange import Failure
from postresponse.core.log import ROUTE
from postresponse.error_response import asgi_response, emptied, wsgi_response
from postresponse.exceptions import ConfigurationError

__all__ = ["rendered_by", "wrapped"]

FAILED: Final = "postresponse.failed"
"""Where the environ or scope of a request that is rendered has what the error handlers are to answer."""


@overload
def wrapped(
    app: "falcon.asgi.App[Any, Any]", settings: Mapping[str, Any] | None = None, **options: Any
) -> asgi.PostResponseMiddleware: ...
@overload
def wrapped(
    app: "falcon.App[Any, Any]", settings: Mapping[str, Any] | None = None, **options: Any
) -> wsgi.PostResponseMiddleware: ...
def wrapped(app: Any, settings: Mapping[str, Any] | None = None, **options: Any) -> Any:
    """Wrap a `falcon.App` or a `falcon.asgi.App` in the `PostResponseMiddleware` of its protocol.

    What is returned is what a server serves; *app* is still where resources, error handlers and middleware are added.
    The log, and observers, name a request by its URI template.

    Args:
        app: The application itself.
        settings: Options in capitals, as they come from a file or the environment, `{"COMMIT": "buffered"}`; objects
            may be named by a text, as `"shop.web:db"`.
        options: Those of the middleware; they win.

    Raises:
        ConfigurationError: *app* is something else; or an option is unknown, or has a value that it cannot have.

    Example:
        >>> import falcon
        >>> api = falcon.App()
        >>> app = wrapped(api)
    """
    is_async = _is_async(app, "wrapped")
    middleware: Any = asgi.PostResponseMiddleware if is_async else wsgi.PostResponseMiddleware
    found = effective(options, settings or {}, middleware, owner="wrapped", source="settings")
    app.add_middleware(_Route())
    return middleware(app, **found)


def rendered_by(app: "falcon.App[Any, Any]") -> Callable[[Failure], Any]:
    """Make an `error_response` that lets the error handlers of *app* answer: `wrapped(api, error_response=...)`.

    Falcon is given the request once more, with no body, and with the exception in the place of the responder's: a
    handler is found by class, and its own default ones answer otherwise. Middleware that was added before this call has
    its `process_request` run again; all of it has `process_response` run for this response.

    The package's default answers where a handler fails, and where nobody knows what was committed (`CommitInDoubt`,
    `PartialCommit`): a general answer would say that nothing was.

    Args:
        app: The application itself, of either protocol.

    Raises:
        ConfigurationError: *app* is something else.

    Example:
        >>> import falcon
        >>> api = falcon.App()
        >>> app = wrapped(api, error_response=rendered_by(api))
    """
    is_async = _is_async(app, "rendered_by")
    app.add_middleware(_Failed())

    def error_response(failure: Failure) -> Any:
        error = _answerable(failure)
        if error is None:
            return None
        with _traceback_kept(error):
            return wsgi_response(app, {**emptied(failure.exchange.scope), FAILED: error})

    async def aerror_response(failure: Failure) -> Any:
        error = _answerable(failure)
        if error is None:
            return None
        with _traceback_kept(error):
            return await asgi_response(app, {**failure.exchange.scope, FAILED: error})

    return aerror_response if is_async else error_response


def _answerable(failure: Failure) -> Exception | None:
    error = failure.exception
    return error if isinstance(error, Exception) and not failure.unknown and not failure.partial else None


@contextmanager
def _traceback_kept(error: Exception) -> Iterator[None]:
    traceback = error.__traceback__
    try:
        yield
    finally:
        error.__traceback__ = traceback  # or it would hold the frames of the call


class _Route:
    """Tells the template of the route; Falcon calls the method of the protocol."""

    def process_resource(self, req: Any, resp: Any, resource: object, params: object) -> None:
        req.env[ROUTE] = req.uri_template

    async def process_resource_async(self, req: Any, resp: Any, resource: object, params: object) -> None:
        req.scope[ROUTE] = req.uri_template


class _Failed:
    """Raises what is to be answered before anything else of the application runs."""

    def process_request(self, req: Any, resp: Any) -> None:
        _raise(req.env.get(FAILED))

    async def process_request_async(self, req: Any, resp: Any) -> None:
        _raise(req.scope.get(FAILED))


def _raise(failed: Exception | None) -> None:
    if failed is not None:
        raise failed


def _is_async(app: Any, owner: str) -> bool:
    if not isinstance(app, falcon.App):
        raise ConfigurationError(f"{owner}: expected a falcon.App or a falcon.asgi.App, found {app!r}")
    return isinstance(app, falcon.asgi.App)
