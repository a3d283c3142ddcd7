"""Applications without the package: what a server does by itself with code behind the last byte."""

import time
from collections.abc import Iterator
from typing import Any, Final

import anyio

from postresponse.testing.conformance.record import record

__all__ = ["asgi", "wsgi"]

BODY: Final = b"x" * 100
TEXT: Final = ("Content-Type", "text/plain")
LENGTH: Final = ("Content-Length", str(len(BODY)))


async def asgi(send: Any, asked: dict[str, str]) -> None:
    """Answer, then go on for so many seconds, and tell how that ends."""
    key, seconds = asked["key"], float(asked.get("seconds", "0"))
    headers = [(name.lower().encode(), value.encode()) for name, value in (TEXT, LENGTH)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": BODY})
    record("sent", key)
    try:
        await anyio.sleep(seconds)
    except BaseException as error:
        record("cancelled", key, by=type(error).__name__)
        raise
    record("done", key)


class Body:
    """A body that tells what the server does with it, and whose `close` takes a while."""

    def __init__(self, key: str, seconds: float) -> None:
        self._key = key
        self._seconds = seconds
        self._pieces = iter([BODY])

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            return next(self._pieces)
        except StopIteration:
            record("stopped", self._key)
            raise

    def close(self) -> None:
        """Take a while."""
        record("close", self._key)
        time.sleep(self._seconds)
        record("done", self._key)


def wsgi(start_response: Any, asked: dict[str, str]) -> Any:
    """Answer, with code of so many seconds in `close()`."""
    start_response("200 OK", [TEXT, LENGTH] if asked.get("length") else [TEXT])
    return Body(asked["key"], float(asked.get("seconds", "0")))
