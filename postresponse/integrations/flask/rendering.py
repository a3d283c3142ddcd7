"""The error handlers of a Flask application render what the unit of work did to a response.

They run in a request context of their own, because the one of the request is gone by then: Flask leaves it when the
view's response is made, and the commit comes after that. What a handler needs of it is brought along: the URL is
matched again, so that handlers of blueprints are found, and `g` holds what it held. Not brought along is what the view
meant for the response that is dropped: its changes to the session and its `after_this_request` functions.
"""

import sys
from collections.abc import Callable
from typing import Any, Final

from flask import Flask, Response, g, got_request_exception, request, request_started
from werkzeug.exceptions import InternalServerError

from postresponse.core.exchange import KEY, Exchange, Failure
from postresponse.error_response import ErrorResponse, emptied, wsgi_response
from postresponse.exceptions import ConfigurationError, PostResponseError, WrongApplication

__all__ = ["rendered_by"]

_G: Final = "flask.g"
"""Under which name an exchange has `g` of its request."""


def rendered_by(app: Flask) -> Callable[[Failure], ErrorResponse | None]:
    """Make an `error_response` that lets the `errorhandler`s of *app* answer.

    A handler is found as for an exception that a view raises: by class along the MRO, of the request's blueprint before
    the application's, then the one of 500 or `InternalServerError` with the exception as its `original_exception`.
    TESTING, PROPAGATE_EXCEPTIONS and debug mode change nothing: the exception stays here.

    `after_request` functions get the response, and `teardown_request` and `teardown_appcontext` functions run once
    more. `before_request` functions do not run again; what they put into `g` is there, but for names that begin with an
    underscore: those are extensions' own, and an extension makes them anew (Flask-Login loads its user again). The
    request's body has been read, and is empty here.

    The package's default answers where no handler is found, or one fails. It also answers where nobody knows what was
    committed (`CommitInDoubt`, `PartialCommit`), unless a handler is registered for that class, or for another one of
    `postresponse.exceptions`: a general page would say that nothing was.

    Args:
        app: The Flask application itself, and not its `wsgi_app`.

    Raises:
        ConfigurationError: *app* is something else.

    Example:
        >>> from flask import Flask
        >>> from postresponse.wsgi import PostResponseMiddleware
        >>> app = Flask("shop")
        >>> app.wsgi_app = PostResponseMiddleware(app.wsgi_app, error_response=rendered_by(app))
    """
    if not isinstance(app, Flask):
        raise ConfigurationError(f"rendered_by: expected the Flask application itself, found {app!r}")
    request_started.connect(_keep_g, app)

    def error_response(failure: Failure) -> ErrorResponse | None:
        error = failure.exception
        if not isinstance(error, Exception):
            return None
        traceback = error.__traceback__
        try:
            return _rendered(app, failure, error)
        finally:
            error.__traceback__ = traceback  # or it would hold the frames of this call

    return error_response


def _keep_g(app: Flask, **signal: Any) -> None:
    exchange: Exchange | None = request.environ.get(KEY)
    if exchange is not None:
        vars(exchange)[_G] = g._get_current_object()


def _rendered(app: Flask, failure: Failure, error: Exception) -> ErrorResponse | None:
    environ = _environ(failure)
    context = app.request_context(environ)
    unhandled: Exception | None = None
    try:
        context.push()
        _bring_g(vars(failure.exchange).get(_G, ()))
        if failure.unknown or failure.partial:
            response = _told(app, error)
        else:
            response, unhandled = _handled(app, error)
        return None if response is None else wsgi_response(response, environ)
    finally:
        context.pop(unhandled)


def _environ(failure: Failure) -> dict[str, Any]:
    if "wsgi.version" not in failure.exchange.scope:
        raise WrongApplication("rendered_by: Flask renders under WSGI; use postresponse.wsgi.PostResponseMiddleware")
    return emptied(failure.exchange.scope)


def _bring_g(kept: Any) -> None:
    for name in list(kept):
        if not name.startswith("_"):
            setattr(g, name, kept.get(name))


def _told(app: Flask, error: Exception) -> Response | None:
    """Answer by a handler of one of this package's own classes, and by no other."""
    own = [kind for kind in type(error).__mro__ if issubclass(kind, PostResponseError)]
    for name in (*request.blueprints, None):
        handlers: Any = app.error_handler_spec.get(name, {}).get(None, {})
        for kind in own:
            if kind in handlers:
                return app.finalize_request(app.ensure_sync(handlers[kind])(error), from_error_handler=True)
    return None


def _handled(app: Flask, error: Exception) -> tuple[Response | None, Exception | None]:
    """Answer as Flask does when a view raises; with what was left unhandled, which teardown functions are told."""
    try:
        try:
            raise error
        except Exception as raised:  # noqa: BLE001 (Flask's own rules)
            return app.finalize_request(app.handle_user_exception(raised), from_error_handler=True), None
    except Exception as unhandled:  # noqa: BLE001 (the same)
        return _server_error(app, unhandled, error), unhandled


def _server_error(app: Flask, unhandled: Exception, error: Exception) -> Response | None:
    """Answer as Flask does to what no handler took, or one raised; never let it out, as PROPAGATE_EXCEPTIONS would."""
    got_request_exception.send(app, _async_wrapper=app.ensure_sync, exception=unhandled)
    app.log_exception(sys.exc_info())
    server_error = InternalServerError(original_exception=unhandled)
    answer = app.handle_http_exception(server_error)
    if answer is not server_error:
        return app.finalize_request(answer, from_error_handler=True)
    if unhandled is not error:
        raise unhandled  # of a handler
    return None
