"""What ASGI messages hold: read, checked, written, and kept until they may leave."""

import functools
import itertools
import os
from collections import deque
from collections.abc import AsyncGenerator, Iterable
from typing import Any, Final

from postresponse.asgi.performing import on_thread
from postresponse.core.headers import check_headers
from postresponse.exceptions import MessageOrderError
from postresponse.held import HeldBody

__all__ = ["BODY", "END_OF_BODY", "START", "checked_head", "content_type_of", "encoded", "items_of", "kept"]

START: Final = "http.response.start"
BODY: Final = "http.response.body"
END_OF_BODY: Final[dict[str, Any]] = {"type": BODY, "body": b"", "more_body": False}

PIECES: Final = 4
"""Pieces of a spilled body that are read at a time: each time costs a turn of a thread."""


def checked_head(message: Any) -> Any:
    """Return a head that can leave; a server would refuse it once the transaction has committed.

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
    together = b"".join(itertools.chain.from_iterable(headers))
    if b"\n" in together or b"\r" in together or b"\0" in together:
        check_headers([(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers])
    return message


def content_type_of(message: Any) -> str:
    """Return the content type that a head says, or an empty string."""
    for name, value in message.get("headers", ()):
        if len(name) == 12 and name.lower() == b"content-type":
            return _decoded(value)
    return ""


@functools.lru_cache(maxsize=256)
def _decoded(value: bytes) -> str:
    return value.decode("latin-1")


def encoded(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    """Write headers as a message has them."""
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]


def kept(message: Any) -> dict[str, Any]:
    """Copy a message so that it can be sent later: the application may close its file once `send` has returned."""
    copy = dict(message)
    if copy["type"] == "http.response.zerocopysend":
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
    if not held.spilled:
        for item in held.take():
            yield item
        return
    items, batch = held.take(), deque[Any]()
    while batch := await on_thread(deque, itertools.islice(items, PIECES)):
        while batch:
            yield batch.popleft()
