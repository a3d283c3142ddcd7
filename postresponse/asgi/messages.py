"""What ASGI messages hold: read, checked, written, and kept until they may leave."""

import itertools
import os
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Sequence
from typing import Any, Final

from postresponse.aperforming import on_thread
from postresponse.core.headers import check_headers
from postresponse.core.policy import never_ends
from postresponse.error_response import ErrorResponse
from postresponse.exceptions import MessageOrderError
from postresponse.held import HeldBody

__all__ = [
    "BODY",
    "END_OF_BODY",
    "PATHSEND",
    "START",
    "ZEROCOPY",
    "encoded",
    "ends_response",
    "header_of",
    "items_of",
    "kept",
    "look_at_head",
    "messages_of",
]

START: Final = "http.response.start"
BODY: Final = "http.response.body"
ZEROCOPY: Final = "http.response.zerocopysend"
PATHSEND: Final = "http.response.pathsend"
END_OF_BODY: Final[dict[str, Any]] = {"type": BODY, "body": b"", "more_body": False}

PIECES: Final = 4
"""Pieces of a spilled body that are read at a time on a thread, where they have to be waited for."""


def look_at_head(message: Any) -> tuple[Any, bool]:
    """Return a head that can leave, and whether its body never ends; afterwards a server's refusal comes too late.

    Raises:
        MessageOrderError: The status is none.
        InvalidHeader: A header would forge another one.
    """
    status = message["status"]
    if isinstance(status, bool) or not isinstance(status, int) or not 100 <= status <= 999:
        raise MessageOrderError(f"http.response.start: expected a status code, found {status!r}")
    headers = message.get("headers", ())
    if type(headers) is not list and type(headers) is not tuple:  # which can be read but once
        headers = list(headers)
        message = {**message, "headers": headers}
    endless = False
    for pair in headers:
        try:
            found = _good.get(pair)
        except TypeError:  # a list, for one
            found = None
        if _look_at(*pair) if found is None else found:
            endless = True
    return message, endless


_good: Final[dict[tuple[bytes, bytes], bool]] = {}
"""Headers that were found good, as most are that come with every response; true for the type of an endless body."""


def _look_at(name: bytes, value: bytes) -> bool:
    together = name + value
    if b"\n" in together or b"\r" in together or b"\0" in together:
        check_headers([(name.decode("latin-1"), value.decode("latin-1"))])
    endless = name.lower() == b"content-type" and never_ends(value.decode("latin-1"))
    if len(together) <= 256 and len(_good) < 1024:
        _good[name, value] = endless
    return endless


def ends_response(message: Any, *, trailers: bool) -> bool | None:
    """Whether *message* is the response's last one; None where it is no part of its body, nor of its *trailers*."""
    kind = message["type"]
    if kind in (BODY, ZEROCOPY):
        return not message.get("more_body", False) and not trailers
    if kind == "http.response.trailers" and trailers:
        return not message.get("more_trailers", False)
    return True if kind == PATHSEND else None


def header_of(scope: Any, name: bytes) -> str | None:
    """The request's header of this *name*, in lower case."""
    headers = scope.get("headers", ())
    return next((value.decode("latin-1") for found, value in headers if found == name), None)


def messages_of(response: ErrorResponse, method: str) -> Sequence[dict[str, Any]]:
    """Return the messages that a whole *response* leaves in."""
    start = {"type": START, "status": response.status, "headers": encoded(response.headers)}
    # In full: Quart's test client, for one, knows no default.
    return start, {"type": BODY, "body": b"" if method == "HEAD" else response.body, "more_body": False}


def encoded(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    """Write headers as a message has them."""
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]


def kept(message: Any) -> dict[str, Any]:
    """Copy a message so that it can be sent later: the application may close its file once `send` has returned."""
    copy = dict(message)
    if copy["type"] == ZEROCOPY:
        copy["file"] = _Descriptor(copy["file"])
    return copy


class _Descriptor:
    """A descriptor of our own for a file that the application may close meanwhile."""

    __slots__ = ("_number",)

    def __init__(self, file: Any) -> None:
        self._number = os.dup(file if isinstance(file, int) else file.fileno())

    def fileno(self) -> int:
        return self._number

    def __del__(self) -> None:
        os.close(self._number)


async def items_of(held: HeldBody) -> AsyncGenerator[Any, None]:
    """Give what is held, in order: bytes, and messages between them."""
    items = held.take()
    while True:
        if held.ready():
            for item in items:
                yield item
                if not held.ready():
                    break
            else:
                return
        batch: deque[Any] = await on_thread(deque, itertools.islice(items, PIECES))
        while batch:
            yield batch.popleft()
