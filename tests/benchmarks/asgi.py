"""The fake ASGI server, and the applications that it serves.

A request is what uvicorn makes of one, without the socket: a new scope of fourteen keys with six headers, a new object
whose bound methods are `receive` and `send`, and a list of what was sent. All requests of a block run in one task:
what a server spends on its own tasks, parsing and writing is the same for every contender and would only hide what
they cost; `wire.py` has all of that. What a contender leaves to the loop is done at the end of the block, and counted.
"""

import asyncio
import gc
import time
import zlib
from collections.abc import Callable
from typing import Any, Final

from tests.benchmarks.runner import Response, Subject

__all__ = ["ASGISubject", "App", "Request", "chunked", "new_scope", "single"]

KILOBYTE: Final = bytes(range(256)) * 4

App = Callable[[Any, Any, Any], Any]


async def single(scope: Any, receive: Any, send: Any) -> None:
    """Answer with one body of 1 kB."""
    assert scope["type"] == "http"
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-type", b"text/plain"), (b"content-length", b"1024")],
        }
    )
    await send({"type": "http.response.body", "body": KILOBYTE})


def chunked(count: int, chunk: bytes = KILOBYTE) -> App:
    """Return an application that streams *count* times *chunk*, as Starlette's StreamingResponse does."""

    async def stream(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        for _ in range(count):
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    return stream


class Request:
    """One request on the server's side; it holds the scope, as uvicorn's does, so that a cycle through it is seen."""

    __slots__ = ("_asked", "_ended", "chunks", "complete", "scope", "status")

    def __init__(self, scope: dict[str, Any]) -> None:
        self.scope = scope
        self.status = 0
        self.chunks: list[bytes] = []
        self.complete = False
        self._asked = False
        self._ended: asyncio.Event | None = None

    async def receive(self) -> Any:
        """Give the empty body of a GET, and from then on wait for the end of the response."""
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        if self._ended is None:
            self._ended = asyncio.Event()
        if not self.complete:
            await self._ended.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        """Take a message, as a server does whose client reads: at once."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            return
        self.chunks.append(message.get("body", b""))
        if not message.get("more_body", False):
            self.complete = True
            if self._ended is not None:
                self._ended.set()


def new_scope() -> dict[str, Any]:
    """Return the scope of a GET."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "server": ("127.0.0.1", 8000),
        "client": ("127.0.0.1", 50000),
        "scheme": "http",
        "method": "GET",
        "root_path": "",
        "path": "/orders",
        "raw_path": b"/orders",
        "query_string": b"",
        "headers": [
            (b"host", b"127.0.0.1:8000"),
            (b"user-agent", b"benchmark/1"),
            (b"accept", b"*/*"),
            (b"accept-encoding", b"gzip, deflate"),
            (b"accept-language", b"en"),
            (b"cookie", b"session=1"),
        ],
        "state": {},
    }


class ASGISubject(Subject):
    """An ASGI application behind the fake server, on an event loop of its own.

    Args:
        app: The application.
        lifespan: Whether it has to be started, as some are.
        request: Makes the server's side of a request while the time is taken.
    """

    def __init__(self, app: App, *, lifespan: bool = False, request: Callable[[Any], Request] = Request) -> None:
        self._app = app
        self._request = request
        self._runner = asyncio.Runner()
        self._lifespan = _Lifespan(app) if lifespan else None
        if self._lifespan is not None:
            self._runner.run(self._lifespan.start())

    def response(self) -> Response:
        """Serve one request and return what came of it."""
        return self._runner.run(self._once())

    def seconds(self, count: int) -> float:
        """Serve *count* requests and return the processor time that they cost."""
        return self._runner.run(self._block(count))

    def garbage(self, count: int) -> int:
        """Serve *count* requests and return the objects left to the collector."""
        return self._runner.run(self._left_over(count))

    def close(self) -> None:
        """Stop the application and the loop."""
        if self._lifespan is not None:
            self._runner.run(self._lifespan.stop())
        self._runner.close()

    async def _once(self) -> Response:
        request = Request(scope := new_scope())
        await self._app(scope, request.receive, request.send)
        assert request.complete, "the response has no end"
        body = b"".join(request.chunks)
        return Response(request.status, len(body), zlib.crc32(body))

    async def _block(self, count: int) -> float:
        app, new_request, began = self._app, self._request, time.process_time()
        for _ in range(count):
            request = new_request(scope := new_scope())
            await app(scope, request.receive, request.send)
        await _turns()
        return time.process_time() - began

    async def _left_over(self, count: int) -> int:
        await self._block(count)  # caches fill
        gc.collect()
        was_enabled = gc.isenabled()
        gc.disable()
        try:
            await self._block(count)
            return gc.collect()
        finally:
            if was_enabled:
                gc.enable()


async def _turns() -> None:
    """Let the loop do what was left to it: that is part of the price."""
    for _ in range(5):
        await asyncio.sleep(0)


class _Lifespan:
    """The lifespan of an application, in a task of its own as servers run it."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._asked: asyncio.Queue[str] = asyncio.Queue()
        self._answered: asyncio.Queue[str] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the application."""
        self._task = asyncio.create_task(self._app({"type": "lifespan", "state": {}}, self._receive, self._send))
        await self._pass("startup")

    async def stop(self) -> None:
        """Stop the application."""
        await self._pass("shutdown")
        if self._task is not None:
            await self._task

    async def _pass(self, moment: str) -> None:
        await self._asked.put(f"lifespan.{moment}")
        answer = await self._answered.get()
        assert answer == f"lifespan.{moment}.complete", answer

    async def _receive(self) -> Any:
        return {"type": await self._asked.get()}

    async def _send(self, message: Any) -> None:
        await self._answered.put(message["type"])
