"""The response that a client gets instead of the application's, when that one cannot stand."""

import html
import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header

from postresponse.core.exchange import Failure

__all__ = ["ErrorResponse", "default_error_response"]

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
