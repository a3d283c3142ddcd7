"""Ask an inspector through the middleware, by both protocols, with servers that forgive nothing."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import anyio

from postresponse import asgi, wsgi
from postresponse.inspector import Inspector
from tests.fakes import StrictASGIServer, StrictWSGIServer

__all__ = ["Answered", "ask", "serve"]

View = Callable[[], int]
PAGE = "/__postresponse__/"


@dataclass(frozen=True)
class Answered:
    """What came."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, read."""
        return json.loads(self.body)


def ask(
    protocol: str,
    inspector: Any,
    path: str = PAGE,
    *,
    method: str = "GET",
    query: str = "",
    headers: dict[str, str] | None = None,
    peer: str | None = "127.0.0.1",
    view: View = lambda: 404,
    mount: str = "",
    app: Any = None,
    **options: Any,
) -> Answered:
    """Send one request, and return the answer."""
    headers = {"host": "127.0.0.1:8000", **(headers or {})}
    if protocol == "wsgi":
        made = app or wsgi.PostResponseMiddleware(_wsgi(view), inspector=inspector, **options)
        server = _WSGIServer(method=method)
        server.more = {
            "PATH_INFO": path,
            "SCRIPT_NAME": mount,
            "QUERY_STRING": query,
            "REMOTE_ADDR": peer or "",
            **{f"HTTP_{name.upper().replace('-', '_')}": value for name, value in headers.items()},
        }
        server.run(made)
        assert server.raised is None
        assert not server.broken
        return Answered(server.code or 0, {name.lower(): value for name, value in server.headers}, server.body)
    made = app or asgi.PostResponseMiddleware(_asgi(view), inspector=inspector, **options)
    asgi_server = StrictASGIServer(method, headers=[(n.encode(), v.encode()) for n, v in headers.items()])
    asgi_server.scope |= {
        "path": f"{mount}{path}",
        "root_path": mount,
        "query_string": query.encode(),
        "client": None if peer is None else (peer, 50000),
    }
    anyio.run(asgi_server.run, made, backend=protocol)
    assert not asgi_server.broken
    found = {name.decode(): value.decode() for name, value in asgi_server.headers}
    return Answered(asgi_server.status or 0, found, asgi_server.body)


def serve(protocol: str, inspector: Inspector, view: View = lambda: 200, path: str = "/orders", **options: Any) -> None:
    """Let the application handle one request."""
    ask(protocol, inspector, path, view=view, **options)


class _WSGIServer(StrictWSGIServer):
    more: dict[str, str]

    @property
    def environ(self) -> dict[str, Any]:
        return {**super().environ, **self.more}


def _wsgi(view: View) -> Any:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response(f"{view()} Said", [("Content-Type", "text/plain"), ("Content-Length", "4")])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [b"body"]

    return app


def _asgi(view: View) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        status = view()
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"4")]})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else b"body"})

    return app
