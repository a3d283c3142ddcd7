"""The response that a client gets instead of the application's, when that one cannot stand."""

import html
import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header

from postresponse.core.exchange import Failure
from postresponse.exceptions import MessageOrderError, WrongApplication

__all__ = ["ErrorResponse", "asgi_response", "default_error_response", "wsgi_response"]

_JSON: Final = "application/problem+json"
_OFFERED: Final = (_JSON, "application/json", "text/html")


@dataclass(frozen=True, slots=True)
class ErrorResponse:
    """A whole response, for either protocol.

    Attributes:
        status: The status code.
        headers: Names and values; Content-Length is added.
        body: All of the body.
    """

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


def default_error_response(failure: Failure, accept: str | None = None) -> ErrorResponse:
    """Say that the request was not carried out, and not a word of why.

    500, or 503 with Retry-After where the same request may succeed, or where nobody knows how it ended.
    `application/problem+json` (RFC 9457), or `text/html` where the client prefers it.

    Args:
        failure: What failed.
        accept: The request's Accept header.
    """
    status = HTTPStatus(failure.status)
    if failure.unknown:
        detail = "The outcome of the request is unknown: it may or may not have been carried out."
    elif failure.partial:
        detail = "The request was carried out in part only."
    elif failure.transient:
        detail = "The request was not carried out. The same request may succeed when it is sent again."
    else:
        detail = "The request was not carried out."
    headers = [("content-type", _JSON), ("cache-control", "no-store")]
    if failure.transient and not failure.unknown:
        headers.append(("retry-after", "1"))
    if parse_accept_header(accept, MIMEAccept).best_match(_OFFERED, _JSON) == "text/html":
        headers[0] = ("content-type", "text/html; charset=utf-8")
        title, text = html.escape(f"{status.value} {status.phrase}"), html.escape(detail)
        body = f"<!doctype html>\n<html lang=en><title>{title}</title>\n<h1>{title}</h1>\n<p>{text}</p>\n</html>\n"
    else:
        body = json.dumps({"type": "about:blank", "title": status.phrase, "status": status.value, "detail": detail})
    return ErrorResponse(status.value, tuple(headers), body.encode())


async def asgi_response(app: Any, scope: Any, receive: Any) -> ErrorResponse:
    """Run the ASGI application *app* and return all that it answered."""
    if not callable(app):
        raise WrongApplication(f"error_response: expected an ErrorResponse or an ASGI application, found {app!r}")
    messages: list[Any] = []

    async def collect(message: Any) -> None:
        messages.append(message)

    await app(scope, receive, collect)
    start = next((message for message in messages if message["type"] == "http.response.start"), None)
    if start is None:
        raise MessageOrderError("error_response: the application it returned gave no response")
    headers = tuple(
        (name.decode("latin-1"), value.decode("latin-1"))
        for name, value in start.get("headers", ())
        if name.lower() not in (b"content-length", b"transfer-encoding")
    )
    body = b"".join(message.get("body", b"") for message in messages if message["type"] == "http.response.body")
    return ErrorResponse(start["status"], headers, body)


def wsgi_response(app: Any, environ: dict[str, Any]) -> ErrorResponse:
    """Run the WSGI application *app* and return all that it answered."""
    if inspect.iscoroutine(app):
        app.close()
    if not callable(app):
        raise WrongApplication(f"error_response: expected an ErrorResponse or a WSGI application, found {app!r}")
    given: list[tuple[str, list[tuple[str, str]]]] = []
    written: list[bytes] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:
        given.append((status, headers))
        return written.append

    body = app(environ, start_response)
    try:
        written.extend(body)
    finally:
        if hasattr(body, "close"):
            body.close()
    if not given:
        raise MessageOrderError("error_response: the application it returned gave no response")
    status, headers = given[-1]
    kept = tuple(pair for pair in headers if pair[0].lower() not in ("content-length", "transfer-encoding"))
    return ErrorResponse(int(status[:3]), kept, b"".join(written))
