"""Quart: the extension `PostResponse`, and error handlers that answer where a unit of work could not commit."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import click
from quart import Quart, got_request_exception, request, request_started
from quart.cli import AppGroup, ScriptInfo

from postresponse.asgi import PostResponseMiddleware
from postresponse.core.exchange import Failure
from postresponse.core.log import ROUTE
from postresponse.error_response import ErrorResponse, asgi_response
from postresponse.exceptions import ConfigurationError
from postresponse.extension import Extension

__all__ = ["PostResponse", "rendered_by"]

RENDERED: Final = "postresponse.rendered"
"""Where the scope of a request that Quart is given once more has what its error handlers are to answer."""


class PostResponse(Extension[Quart]):
    """Wrap Quart applications in `PostResponseMiddleware`, with options by keyword or by `app.config`.

    `app.config["POSTRESPONSE_COMMIT"] = "buffered"` gives the option `commit`, and so each one; an object may be named
    by a text, as `"shop.web:db"`. What is given by keyword is for every application, and wins. The configuration is
    read by `init_app`, and not looked at again.

    With a unit of work, the `errorhandler`s of the application answer for one that could not commit, as `rendered_by`
    has it; `error_response=lambda failure: None` has the package's default answer instead. The log, and observers, name
    a request by its URL rule. `quart postresponse config` prints the options, `quart postresponse doctor` what is wrong
    with the application, and `quart postresponse relay` runs the `Relay` that `POSTRESPONSE_RELAY` names.

    Args:
        app: An application to begin with; others follow by `init_app`.
        unit_of_work: As that of the middleware; None observes only.
        commit: As that of the middleware.
        options: Any other option of `postresponse.asgi.PostResponseMiddleware`.

    Raises:
        ConfigurationError: An option is unknown, or has a value that it cannot have; or the application has one of
            these already.

    Example:
        >>> from quart import Quart
        >>> extension = PostResponse()
        >>> app = Quart("shop")
        >>> app.config["POSTRESPONSE_CLEANUP_TIMEOUT"] = 2.0
        >>> extension.init_app(app)
    """

    _application = Quart
    _entry = "asgi_app"
    _middleware = PostResponseMiddleware
    _group = AppGroup

    def _rendered_by(self, app: Quart) -> Any:
        return rendered_by(app)

    def _tell_routes(self, app: Quart) -> None:
        request_started.connect(_tell_route, app)

    def _current(self) -> Quart:
        # Not current_app: Quart has a command that wants it run on an event loop, and a relay brings its own.
        app: Quart = click.get_current_context().ensure_object(ScriptInfo).load_app()
        return app


def rendered_by(app: Quart) -> Callable[[Failure], Awaitable[ErrorResponse | None]]:
    """Make an `error_response` that lets the `errorhandler`s of *app* answer.

    Quart is given the request once more, with no body, and with the exception in the place of the view: what follows is
    as if the view had raised it. A handler is found by class, of the request's blueprint before the application's, then
    that of 500; without one there is Quart's own page. `before_request` functions do not run again, and `g` is empty;
    `after_request` and teardown functions run for this response too.

    The package's default answers where nobody knows what was committed (`CommitInDoubt`, `PartialCommit`), because a
    general page would say that nothing was; and where TESTING, PROPAGATE_EXCEPTIONS or debug mode would have Quart let
    out, or show, what no handler took.

    Args:
        app: The Quart application itself, before its `asgi_app` is wrapped.

    Raises:
        ConfigurationError: *app* is something else.

    Example:
        >>> from quart import Quart
        >>> from postresponse.asgi import PostResponseMiddleware
        >>> app = Quart("shop")
        >>> app.asgi_app = PostResponseMiddleware(app.asgi_app, error_response=rendered_by(app))
    """
    if not isinstance(app, Quart):
        raise ConfigurationError(f"rendered_by: expected the Quart application itself, found {app!r}")
    inner = app.asgi_app
    request_started.connect(_raise_failed, app)
    got_request_exception.connect(_note_unhandled, app)

    async def error_response(failure: Failure) -> ErrorResponse | None:
        error = failure.exception
        if failure.unknown or failure.partial or not isinstance(error, Exception):
            return None
        traceback = error.__traceback__
        rendered = _Rendered(error)
        response: ErrorResponse | None = None
        try:
            response = await asgi_response(inner, {**failure.exchange.scope, RENDERED: rendered})
        except Exception:
            if rendered.unhandled is None:
                raise
        finally:
            error.__traceback__ = traceback  # or it would hold the frames of this call
        if rendered.unhandled is None or not _propagates(app):
            return response
        if rendered.unhandled is not error:
            raise rendered.unhandled  # of a handler
        return None

    return error_response


@dataclass(slots=True)
class _Rendered:
    """What is given to the error handlers of one request, and what was left to Quart in spite of them."""

    error: Exception
    unhandled: Exception | None = None


async def _raise_failed(app: Quart, **signal: Any) -> None:
    scope: Any = request.scope
    rendered: _Rendered | None = scope.get(RENDERED)
    if rendered is not None:
        raise rendered.error


async def _note_unhandled(app: Quart, *, exception: Exception, **signal: Any) -> None:
    scope: Any = request.scope
    rendered: _Rendered | None = scope.get(RENDERED)
    if rendered is not None:
        rendered.unhandled = exception


def _propagates(app: Quart) -> bool:
    """Whether Quart lets out what no handler took, and shows it in debug mode."""
    asked: bool | None = app.config["PROPAGATE_EXCEPTIONS"]
    return app.testing or app.debug if asked is None else asked


# Async, though it waits for nothing: Quart has a plain function called on a thread.
async def _tell_route(app: Quart, **signal: Any) -> None:
    scope: Any = request.scope
    if request.url_rule is not None:
        scope[ROUTE] = request.url_rule.rule
