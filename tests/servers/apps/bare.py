"""Two applications without the package, to see that harness and client work before they judge anything."""

from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

PIECES = [b"one ", b"two ", b"three"]
BODY = b"".join(PIECES)
TEXT = ("content-type", "text/plain")
LENGTH = ("content-length", str(len(BODY)))


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    """Answer in three pieces; with a Content-Length on /length, without one elsewhere."""
    if scope["type"] == "lifespan":
        for _ in range(2):
            kind = (await receive())["type"]
            await send({"type": f"{kind}.complete"})
        return
    headers = [TEXT, LENGTH] if scope["path"] == "/length" else [TEXT]
    encoded = [(name.encode(), value.encode()) for name, value in headers]
    await send({"type": "http.response.start", "status": 200, "headers": encoded})
    for piece in PIECES:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def wsgi(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer in three pieces; with a Content-Length on /length, without one elsewhere."""
    start_response("200 OK", [TEXT, LENGTH] if environ["PATH_INFO"] == "/length" else [TEXT])
    return iter(PIECES)
