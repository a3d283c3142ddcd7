"""The limits of tenants around a WSGI application."""

import functools
import threading
from collections.abc import Callable, Iterable, Iterator
from time import monotonic
from typing import Any, Final

from postresponse.connection import client_left
from postresponse.core.log import path_of
from postresponse.error_response import refused, sendable
from postresponse.tenancy.limits import Refusal, TenantLimits, Turn
from postresponse.typing import WSGIApplication
from postresponse.wsgi.files import is_file, watch_close
from postresponse.wsgi.heads import status_line

__all__ = ["TenantLimitMiddleware"]

LOOK: Final = 0.25
"""Seconds between two looks whether a client that waits is still there."""


class TenantLimitMiddleware(TenantLimits[WSGIApplication]):
    """Wrap a WSGI application; let no tenant take what belongs to the others.

    So many requests of each tenant are served at once, so many more wait, first come, first served, each on a thread of
    the server; the next one is refused at once with 429 (503 without a *key*) and Retry-After. One that waits too long
    gets 503. A client that leaves while it waits is never served, where the server lets that be seen (gunicorn,
    Werkzeug, waitress). What is served cannot be cut off: a slot is given back when the server closes the body.

    The limits hold for this process: with four workers a tenant has four times as much. Install it further out than
    `postresponse.wsgi.PostResponseMiddleware`, so that who waits holds no unit of work.

    Args:
        app: The WSGI application.
        key: Names the tenant of an environ; None for one bound on all requests.
        limits: Those of each tenant, or a function of the tenant; asked at each request, so they may change. The
            timeout is that of waiting.
        views: Limits of their own for these paths, and what is below them; None for none.
        on_key_error: The status where *key* or *limits* raises, or names nobody; `"admit"` serves it unbounded.
        retry_after: Seconds that a refused client is told to wait.

    Raises:
        ConfigurationError: An option is unknown or has a value that it cannot have.
        WrongApplication: *app* is an ASGI application.
    """

    _arguments = 2
    _twin = "postresponse.tenancy.asgi.TenantLimitMiddleware"

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Handle one request (PEP 3333)."""
        came = threading.Event()
        turn = self._admission.enter(environ, path_of(environ), came.set)
        if turn is None:
            return self.app(environ, start_response)
        if isinstance(turn, Refusal):
            return _refuse(turn, environ, start_response)
        turn.name_in(environ)
        try:
            if turn.waits and not _wait(turn, came, environ):
                turn.leave()
                return _refuse(turn.late(), environ, start_response)
            body = self.app(environ, start_response)
        except BaseException:
            turn.leave()
            raise
        if is_file(environ, body) and watch_close(body, functools.partial(_end, turn)):
            return body
        return _SizedBody(body, turn) if hasattr(body, "__len__") else _Body(body, turn)


def _wait(turn: Turn, came: threading.Event, environ: dict[str, Any]) -> bool:
    """Wait for the *turn*; False if it took too long, or the client left."""
    end = None if turn.timeout is None else monotonic() + turn.timeout
    while not came.wait(LOOK if end is None else min(LOOK, max(0.0, end - monotonic()))):
        if (end is not None and monotonic() >= end) or client_left(environ):
            return False
    return True


def _refuse(refusal: Refusal, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    method = environ.get("REQUEST_METHOD", "GET")
    made = refused(refusal.status, refusal.detail, refusal.retry_after, environ.get("HTTP_ACCEPT"))
    response = sendable(made, method)
    start_response(status_line(response.status), list(response.headers))
    return [] if method == "HEAD" else [response.body]


def _end(turn: Turn, close: Callable[[], object] | None) -> None:
    """Close what was sent, and let the next one in."""
    try:
        if close is not None:
            close()
    finally:
        turn.leave()


class _Body:
    """What the application returned; its slot is given back with its `close`."""

    __slots__ = ("_body", "_turn")

    def __init__(self, body: Iterable[bytes], turn: Turn) -> None:
        self._body = body
        self._turn = turn

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._body)

    def close(self) -> None:
        """Close it, and let the next one in."""
        _end(self._turn, getattr(self._body, "close", None))

    def __del__(self) -> None:
        # One bridge never calls close() (asgiref's WsgiToAsgi): better late than never.
        self._turn.leave()


class _SizedBody(_Body):
    """One whose number of parts is known: some servers derive Content-Length from a single one."""

    __slots__ = ()

    def __len__(self) -> int:
        return len(self._body)  # type: ignore[arg-type]
