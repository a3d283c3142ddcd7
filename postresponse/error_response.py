"""The response that a client gets instead of the application's, when that one cannot stand."""

import html
import json
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from io import BytesIO
from typing import Any, Final

from anyio import Event
from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header

from postresponse.core.exchange import Failure
from postresponse.core.headers import check_headers
from postresponse.core.settings import check_application
from postresponse.exceptions import MessageOrderError, WrongApplication

__all__ = [
    "ErrorResponse",
    "asgi_response",
    "default_error_response",
    "emptied",
    "refused",
    "sendable",
    "wsgi_response",
]

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
    status = failure.status
    if failure.unknown:
        detail = "The outcome of the request is unknown: it may or may not have been carried out."
    elif failure.partial:
        detail = "The request was carried out in part only."
    elif failure.transient:
        detail = "The request was not carried out. The same request may succeed when it is sent again."
    else:
        detail = "The request was not carried out."
    return refused(status, detail, 1.0 if failure.transient and not failure.unknown else None, accept)


def refused(status: int, detail: str, retry_after: float | None, accept: str | None) -> ErrorResponse:
    """Say in a sentence why a request is not answered as it was meant to be.

    `application/problem+json` (RFC 9457), or `text/html` where the client prefers it.

    Args:
        retry_after: Seconds after which it may be sent again, rounded up; None does not invite to that.
        accept: The request's Accept header.
    """
    phrase = HTTPStatus(status).phrase
    headers = [("content-type", _JSON), ("cache-control", "no-store")]
    if retry_after is not None:
        headers.append(("retry-after", str(math.ceil(retry_after))))
    if parse_accept_header(accept, MIMEAccept).best_match(_OFFERED, _JSON) == "text/html":
        headers[0] = ("content-type", "text/html; charset=utf-8")
        title, text = html.escape(f"{status} {phrase}"), html.escape(detail)
        body = f"<!doctype html>\n<html lang=en><title>{title}</title>\n<h1>{title}</h1>\n<p>{text}</p>\n</html>\n"
    else:
        body = json.dumps({"type": "about:blank", "title": phrase, "status": status, "detail": detail})
    return ErrorResponse(status, tuple(headers), body.encode())


async def asgi_response(app: Any, scope: Any) -> ErrorResponse:
    """Run the ASGI application *app* and return all that it answered.

    The request's body was read, and is empty here: the server's `receive` would wait for the client to leave. Behind
    the end of the response ours says that it left, as a server does: Quart waits for that.
    """
    check_application(app, 3, "error_response")
    messages: list[Any] = []
    ended = Event()

    async def collect(message: Any) -> None:
        messages.append(message)
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            ended.set()

    await app(
        {**scope, "extensions": {}}, _ended_body(ended), collect
    )  # without pathsend: the body is wanted, not a path
    start = next((message for message in messages if message["type"] == "http.response.start"), None)
    parts = [message for message in messages if message["type"] == "http.response.body"]
    if start is None or not parts or parts[-1].get("more_body", False):
        raise MessageOrderError("error_response: the application it returned gave no whole response")
    headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in start.get("headers", ()))
    return ErrorResponse(start["status"], headers, b"".join(message.get("body", b"") for message in parts))


def _ended_body(ended: Event) -> Callable[[], Awaitable[Any]]:
    """Make a `receive` that gives the end of the request's body, and when the response has *ended* a disconnect."""
    given = False

    async def receive() -> Any:
        nonlocal given
        if given:
            await ended.wait()
            return {"type": "http.disconnect"}
        given = True
        return {"type": "http.request", "body": b"", "more_body": False}

    return receive


def wsgi_response(app: Any, environ: dict[str, Any]) -> ErrorResponse:
    """Run the WSGI application *app* and return all that it answered; *environ* is that of `emptied`."""
    check_application(app, 2, "error_response")
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
    return ErrorResponse(int(status[:3]), tuple(headers), b"".join(written))


def emptied(environ: dict[str, Any]) -> dict[str, Any]:
    """Copy *environ* with an empty body: the request's was read, and a server may wait for bytes that never come.

    Without the server's file wrapper, which nobody but the server has to be able to read from.
    """
    copy = {**environ, "wsgi.input": BytesIO(), "CONTENT_LENGTH": "0"}
    copy.pop("wsgi.file_wrapper", None)
    return copy


def sendable(response: ErrorResponse, method: str) -> ErrorResponse:
    """Refuse what no server may send, and give the rest the Content-Length that belongs to it.

    That is none for a status without a body (RFC 9110, section 8.6), and for HEAD what the application itself says, if
    it gives no body then.

    Raises:
        WrongApplication: The status or the body is none.
        InvalidHeader: A header would forge another one.
    """
    status, body = response.status, response.body
    if isinstance(status, bool) or not isinstance(status, int) or not 200 <= status <= 599:
        raise WrongApplication(f"error_response: expected a status from 200 to 599, found {status!r}")
    if not isinstance(body, bytes):
        raise WrongApplication(f"error_response: expected a body of bytes, found {body!r}")
    check_headers(response.headers)
    said = next((value for name, value in response.headers if name.lower() == "content-length"), None)
    headers = [pair for pair in response.headers if pair[0].lower() not in ("content-length", "transfer-encoding")]
    if status in (204, 304):
        return ErrorResponse(int(status), tuple(headers), b"")
    length = said if method == "HEAD" and not body and said is not None else str(len(body))
    return ErrorResponse(int(status), (*headers, ("content-length", length)), body)
