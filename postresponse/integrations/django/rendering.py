"""The exception middleware and the error views of a Django project render what the unit of work did to a response.

They get the request that the view got, with all that middlewares have put on it. Django hands it to nobody outside of
its handler; so the handler is told to note on the exchange which request it made. Weakly: it holds the environ, or the
scope, and that the exchange; and Django's response keeps it alive for as long as that may be replaced.
"""

import io
import weakref
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

from asgiref.sync import sync_to_async
from django.core.exceptions import BadRequest, PermissionDenied, SuspiciousOperation
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.core.signals import got_request_exception
from django.http import Http404
from django.http.multipartparser import MultiPartParserError
from django.template import TemplateDoesNotExist, loader
from django.urls import get_resolver, get_urlconf
from django.utils.log import log_response
from django.views.defaults import ERROR_500_TEMPLATE_NAME, server_error

from postresponse.core.exchange import KEY, Exchange, Failure
from postresponse.error_response import ErrorResponse, emptied
from postresponse.exceptions import ConfigurationError, WrongApplication
from postresponse.typing import ASGIApplication, WSGIApplication

__all__ = ["REQUEST", "page_for", "rendered_by"]

_Rendering: TypeAlias = Callable[[Failure], ErrorResponse | Awaitable[ErrorResponse | None] | None]

REQUEST: Final = "django.request"
"""Under which name an exchange has a weak reference to Django's request."""


def rendered_by(app: WSGIApplication | ASGIApplication) -> _Rendering:
    """Make an `error_response` that lets the project of *app* answer as it answers an exception of a view.

    `process_exception` of the middlewares is asked first, the last one of MIDDLEWARE first. Then the signal
    `got_request_exception` is sent, and the `handler500` of the URLconf answers (of `request.urlconf`, where a
    middleware has set one), or the template `500.html` where there is no such handler; Django logs it, and mails its
    ADMINS. What a hook raises as `Http404`, `PermissionDenied` and the like goes to the handler of that status. DEBUG
    and DEBUG_PROPAGATE_EXCEPTIONS change nothing: no traceback is shown, and the exception stays here.

    The response does not pass through the middlewares, because the one that it replaces has passed them.

    The package's default answers where there is neither a handler nor a template, or one fails. It also answers where
    nobody knows what was committed (`CommitInDoubt`, `PartialCommit`): a general page would say that nothing was.

    Args:
        app: What `get_wsgi_application` or `get_asgi_application` returned. It is told to note its requests.

    Raises:
        ConfigurationError: *app* is something else.

    Example:
        >>> from django.core.wsgi import get_wsgi_application
        >>> from postresponse.wsgi import PostResponseMiddleware
        >>> app = get_wsgi_application()
        >>> application = PostResponseMiddleware(app, error_response=rendered_by(app))
    """
    if not isinstance(app, WSGIHandler | ASGIHandler):
        raise ConfigurationError(
            f"rendered_by: expected what get_wsgi_application() or get_asgi_application() returned, found {app!r}"
        )
    _note_requests(app)

    def error_response(failure: Failure) -> ErrorResponse | None:
        return _error_response(app, failure)

    async def async_error_response(failure: Failure) -> ErrorResponse | None:
        # On the thread of the request, where its database connections are.
        return await sync_to_async(error_response, thread_sensitive=True)(failure)

    return async_error_response if isinstance(app, ASGIHandler) else error_response


def page_for(failure: Failure) -> ErrorResponse | None:
    """Answer as `rendered_by` does, but for `process_exception`: which middlewares have it only the handler knows."""
    return _answered(failure, lambda error: _by_error_view(_request(None, failure), error))


def _note_requests(app: Any) -> None:
    make = app.request_class

    def noted(carrier: Any, *body: Any) -> Any:
        request = make(carrier, *body)
        exchange: Exchange | None = carrier.get(KEY)
        if exchange is not None:
            vars(exchange)[REQUEST] = weakref.ref(request)
        return request

    app.request_class = noted


def _request(app: Any, failure: Failure) -> Any:
    """Return the request that the view got, or where there was none, one without a body."""
    request = vars(failure.exchange).get(REQUEST, lambda: None)()
    if request is not None:
        return request
    scope = failure.exchange.scope
    if isinstance(app, ASGIHandler):
        return app.request_class(scope, io.BytesIO())
    if "wsgi.version" not in scope:
        raise WrongApplication(
            "rendered_by: get_wsgi_application() renders under WSGI, and this is a request of ASGI; give it what "
            "get_asgi_application() returned"
        )
    return app.request_class(emptied(scope))


def _error_response(app: Any, failure: Failure) -> ErrorResponse | None:
    return _answered(failure, lambda error: _response(app, _request(app, failure), error))


def _answered(failure: Failure, answer: Callable[[Exception], Any]) -> ErrorResponse | None:
    error = failure.exception
    if failure.unknown or failure.partial or not isinstance(error, Exception):
        return None
    traceback = error.__traceback__
    try:
        response = answer(error)
        return None if response is None else _taken(response)
    finally:
        error.__traceback__ = traceback  # or it would hold the frames of this call


def _response(app: Any, request: Any, error: Exception) -> Any:
    try:
        try:
            raise error
        except Exception as raised:
            response = app.process_exception_by_middleware(raised, request)
            if response is None:
                raise
            return _rendered(response)
    except Exception as unhandled:
        response = _by_error_view(request, unhandled)
        if response is None and unhandled is not error:
            raise  # of a middleware
        return response


def _rendered(response: Any) -> Any:
    return response.render() if getattr(response, "is_rendered", None) is False else response


_STATUS: Final = {
    Http404: 404,
    PermissionDenied: 403,
    MultiPartParserError: 400,
    BadRequest: 400,
    SuspiciousOperation: 400,
}
"""What Django takes for something else than an error of the server."""


def _by_error_view(request: Any, error: Exception) -> Any:
    """Answer by the URLconf's handler of the status that *error* stands for; None where there is none of one's own."""
    resolver = get_resolver(getattr(request, "urlconf", get_urlconf()))
    for kind, status in _STATUS.items():
        if isinstance(error, kind):
            return _rendered(resolver.resolve_error_handler(status)(request, exception=error))
    got_request_exception.send(sender=None, request=request)
    view = resolver.resolve_error_handler(500)
    if view is server_error and not _has_page():
        return None
    response = _rendered(view(request))
    log_response("%s: %s", response.reason_phrase, request.path, response=response, request=request, exception=error)
    return response


def _has_page() -> bool:
    try:
        loader.get_template(ERROR_500_TEMPLATE_NAME)
    except TemplateDoesNotExist:
        return False
    return True


def _taken(response: Any) -> ErrorResponse:
    """Take all of *response*."""
    cookies = (("Set-Cookie", cookie.OutputString()) for cookie in response.cookies.values())
    try:
        body = b"".join(response)
    finally:
        if response.streaming:  # what it streams wants closing; else `close` only says once more "request_finished"
            response.close()
    return ErrorResponse(response.status_code, (*response.items(), *cookies), body)
