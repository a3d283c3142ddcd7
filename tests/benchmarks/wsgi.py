"""The fake WSGI server, and the applications that it serves.

A request is what a WSGI server makes of one, without the socket: a new environ, copied from a base of the usual keys as
wsgiref and gunicorn do, a new object whose bound method is `start_response`, a loop over the body that hands each
chunk to `write`, and `close`.
"""

import gc
import io
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from tests.benchmarks.runner import Response, Subject

__all__ = ["App", "WSGISubject", "chunked", "serve", "single"]

KILOBYTE: Final = bytes(range(256)) * 4

App = Callable[[dict[str, Any], Any], Iterable[bytes]]

BASE: Final[dict[str, Any]] = {
    "wsgi.version": (1, 0),
    "wsgi.url_scheme": "http",
    "wsgi.input": io.BytesIO(),
    "wsgi.errors": io.StringIO(),
    "wsgi.multithread": True,
    "wsgi.multiprocess": False,
    "wsgi.run_once": False,
    "SERVER_SOFTWARE": "benchmark",
    "SERVER_NAME": "127.0.0.1",
    "SERVER_PORT": "8000",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "REMOTE_ADDR": "127.0.0.1",
    "REQUEST_METHOD": "GET",
    "SCRIPT_NAME": "",
    "PATH_INFO": "/orders",
    "QUERY_STRING": "",
    "HTTP_HOST": "127.0.0.1:8000",
    "HTTP_USER_AGENT": "benchmark/1",
    "HTTP_ACCEPT": "*/*",
    "HTTP_ACCEPT_ENCODING": "gzip, deflate",
    "HTTP_ACCEPT_LANGUAGE": "en",
    "HTTP_COOKIE": "session=1",
}


def single(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Answer with one body of 1 kB."""
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "1024")])
    return [KILOBYTE]


def chunked(count: int, chunk: bytes = KILOBYTE, *, sized: bool = False) -> App:
    """Return an application that streams *count* times *chunk* out of a generator.

    Args:
        sized: Whether it declares Content-Length.
    """
    headers = [("Content-Type", "text/plain")]
    if sized:
        headers.append(("Content-Length", str(count * len(chunk))))

    def stream() -> Iterator[bytes]:
        for _ in range(count):
            yield chunk

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", headers[:])
        return stream()

    return app


class Request:
    """One request on the server's side; it holds the environ, as servers' do, so that a cycle through it is seen."""

    __slots__ = ("chunks", "environ", "headers", "status")

    status: str
    headers: list[tuple[str, str]]

    def __init__(self, environ: dict[str, Any]) -> None:
        self.environ = environ
        self.chunks: list[bytes] = []

    def start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        """Take the head."""
        self.status, self.headers = status, headers
        return self.write

    def write(self, chunk: bytes) -> None:
        """Take a part of the body."""
        self.chunks.append(chunk)


def serve(app: App, count: int = 1) -> Request:
    """Serve *count* requests, and return the last."""
    for _ in range(count):
        request = Request(environ := BASE.copy())
        body = app(environ, request.start_response)
        try:
            for chunk in body:
                request.write(chunk)
        finally:
            if hasattr(body, "close"):
                body.close()
    return request


class WSGISubject(Subject):
    """A WSGI application behind the fake server.

    Args:
        app: The application.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    def response(self) -> Response:
        """Serve one request and return what came of it."""
        request = serve(self._app)
        body = b"".join(request.chunks)
        return Response(int(request.status[:3]), len(body), zlib.crc32(body))

    def seconds(self, count: int) -> float:
        """Serve *count* requests and return the processor time that they cost."""
        began = time.process_time()
        serve(self._app, count)
        return time.process_time() - began

    def garbage(self, count: int) -> int:
        """Serve *count* requests and return the objects left to the collector."""
        self.seconds(count)  # caches fill
        gc.collect()
        was_enabled = gc.isenabled()
        gc.disable()
        try:
            self.seconds(count)
            return gc.collect()
        finally:
            if was_enabled:
                gc.enable()
