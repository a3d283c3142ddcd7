"""Around the middleware: an answer to `/found` that says what was found out, and how many requests are done with."""

import json
from collections.abc import Iterable
from typing import Any, Final

from postresponse.observing.late import tally

__all__ = ["around_asgi", "around_wsgi"]

PATH: Final = "/found"


def _found(done: int) -> bytes:
    """What was counted of each route: the requests that committed, how many of them late, how many failed, where."""
    routes = {name: [each.requests, each.late, each.failed, each.where] for name, each in tally._routes.items()}
    return json.dumps({"done": done, "routes": routes}).encode()


def around_asgi(app: Any) -> Any:
    """Put it around an ASGI application; a request is done with when that has returned."""
    done = 0

    async def outer(scope: Any, receive: Any, send: Any) -> None:
        nonlocal done
        if scope["type"] == "http" and scope["path"] == PATH:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": _found(done)})
            return
        try:
            await app(scope, receive, send)
        finally:
            done += scope["type"] == "http"

    return outer


def around_wsgi(app: Any) -> Any:
    """Put it around a WSGI application; on the same connection all requests before are done with."""

    def outer(environ: Any, start_response: Any) -> Iterable[bytes]:
        if environ["PATH_INFO"] == PATH:
            body = _found(0)
            start_response("200 OK", [("Content-Length", str(len(body)))])
            return [body]
        return app(environ, start_response)  # type: ignore[no-any-return]

    return outer
