"""Strict fakes for both sides of a middleware: servers that refuse what a protocol forbids, and units of work.

A fake server raises `ProtocolBroken` where the fault happens and keeps it in `broken` as well: an application that
swallows it does not hide it.
"""

import functools
import io
import sys
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import anyio
from anyio.lowlevel import checkpoint
from werkzeug.middleware.lint import LintMiddleware

BODY = "http.response.body"
START = "http.response.start"


class ProtocolBroken(AssertionError):
    """One side said what its protocol does not allow."""


class ConnectionLost(OSError):
    """What a server's `send` or `write` raises once the client has left."""


class Conflict(Exception):
    """What a database says to one of two transactions that cannot both be (SQLSTATE 40001)."""

    sqlstate = "40001"


# -- units of work ----------------------------------------------------------------------------------------------------


class FakeUnit:
    """A unit of work that writes down each call, `"commit!"` for one that failed.

    Args:
        fails: What each named call raises.
        active: False for a unit that the handler ended itself.
    """

    def __init__(self, fails: Mapping[str, BaseException], log: list[str] | None = None) -> None:
        self.fails = fails
        self.log: list[str] = [] if log is None else log
        self.active = True
        self.statement_error: BaseException | None = None

    def _call(self, name: str) -> None:
        error = self.fails.get(name)
        self.log.append(name if error is None else f"{name}!")
        if error is not None:
            raise error

    def begin(self) -> None:
        self._call("begin")

    def commit(self) -> None:
        self._call("commit")

    def rollback(self) -> None:
        self._call("rollback")

    def close(self) -> None:
        self._call("close")

    def invalidate(self) -> None:
        self._call("invalidate")


class AsyncFakeUnit(FakeUnit):
    """The awaitable twin; each call gives the loop a turn before and after."""

    async def _call_slowly(self, name: str) -> None:
        await checkpoint()
        self._call(name)
        await checkpoint()

    async def begin(self) -> None:  # type: ignore[override]
        await self._call_slowly("begin")

    async def commit(self) -> None:  # type: ignore[override]
        await self._call_slowly("commit")

    async def rollback(self) -> None:  # type: ignore[override]
        await self._call_slowly("rollback")

    async def close(self) -> None:  # type: ignore[override]
        await self._call_slowly("close")

    async def invalidate(self) -> None:  # type: ignore[override]
        await self._call_slowly("invalidate")


class QuickUnit(FakeUnit):
    """An async unit of work that never waits."""

    async def begin(self) -> None:  # type: ignore[override]
        self._call("begin")

    async def commit(self) -> None:  # type: ignore[override]
        self._call("commit")

    async def rollback(self) -> None:  # type: ignore[override]
        self._call("rollback")

    async def close(self) -> None:  # type: ignore[override]
        self._call("close")


class FakeUnits:
    """A factory of fake units that remembers those it made.

    Args:
        fails: What each named call raises.
        times: In how many of the units, from the first; None for all.
    """

    def __init__(
        self,
        fails: Mapping[str, BaseException] | None = None,
        *,
        times: int | None = None,
        is_async: bool = False,
    ) -> None:
        self.fails = fails or {}
        self.times = times
        self.is_async = is_async
        self.made: list[FakeUnit] = []

    def __call__(self, exchange: object) -> Any:
        fails = self.fails if self.times is None or len(self.made) < self.times else {}
        unit = (AsyncFakeUnit if self.is_async else FakeUnit)(fails)
        self.made.append(unit)
        return unit

    @property
    def only(self) -> FakeUnit:
        """The one unit that was made."""
        (unit,) = self.made
        return unit

    @property
    def log(self) -> list[str]:
        """The calls of the one unit that was made."""
        return self.only.log


# -- ASGI -------------------------------------------------------------------------------------------------------------


class StrictASGIServer:
    """One HTTP request of a server that forgives nothing.

    Refuses messages that are out of order, of a wrong type, after the end, or that do not keep their Content-Length; a
    second `receive` while one is pending; and whatever comes after a `receive` that was cancelled before the response
    was complete: one server answers that with a disconnect that never was.

    Args:
        method: The request's.
        body: The request's, in the parts that `receive` gives.
        headers: The request's.
        http_version: As in the scope.
        extensions: As in the scope: names of extensions that the server knows.
        leaves_at: The client leaves when the server has taken so many messages; None for never.
        tells: What a send to a client that left does: nothing, as on most servers, or raise `ConnectionLost`.
    """

    def __init__(
        self,
        method: str = "GET",
        *,
        body: Sequence[bytes] = (b"",),
        headers: Sequence[tuple[bytes, bytes]] = (),
        http_version: str = "1.1",
        extensions: Sequence[str] = (),
        leaves_at: int | None = None,
        tells: bool = False,
    ) -> None:
        self.scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.5"},
            "http_version": http_version,
            "method": method,
            "scheme": "http",
            "path": "/orders",
            "raw_path": b"/orders",
            "query_string": b"",
            "root_path": "",
            "headers": list(headers),
            "client": ("127.0.0.1", 50000),
            "server": ("127.0.0.1", 80),
            "extensions": {name: {} for name in extensions},
        }
        self._requests = list(body)
        self._leaves_at = leaves_at
        self._tells = tells
        self._taken = 0
        self._receiving = self._sending = self._cancelled = False
        self._turn = anyio.Event()
        self.messages: list[dict[str, Any]] = []
        self.broken: list[str] = []
        self.left = leaves_at == 0
        self.complete = False
        self.status: int | None = None
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = b""
        self.path: str | None = None
        self._trailers = False
        self._body_ended = False

    # -- what the application calls

    async def receive(self) -> dict[str, Any]:
        if self._receiving:
            self._refuse("receive() was called while another one is pending")
        self._check_cancelled()
        self._receiving = True
        try:
            await checkpoint()
            if self.left or self.complete:
                return {"type": "http.disconnect"}
            if self._requests:
                part = self._requests.pop(0)
                return {"type": "http.request", "body": part, "more_body": bool(self._requests)}
            while not (self.left or self.complete):
                await self._turn.wait()
            return {"type": "http.disconnect"}
        except BaseException:
            if not (self.left or self.complete):
                self._cancelled = True
            raise
        finally:
            self._receiving = False

    async def send(self, message: Any) -> None:
        if self._sending:
            self._refuse("send() was called while another one is pending")
        self._check_cancelled()
        self._sending = True
        try:
            await checkpoint()
            if self.left:
                if self._tells:
                    raise ConnectionLost("the client left")
                return
            self._check(message)
            self.messages.append(dict(message))
            self._taken += 1
            if self._leaves_at is not None and self._taken >= self._leaves_at and not self.complete:
                self.leave()
        finally:
            self._sending = False

    def leave(self) -> None:
        """Let the client leave now."""
        self.left = True
        self._turn.set()

    # -- what it is allowed to say

    def _check_cancelled(self) -> None:
        if self._cancelled:
            self._refuse("the application goes on after a receive() was cancelled before the response was complete")

    def _refuse(self, what: str) -> None:
        self.broken.append(what)
        raise ProtocolBroken(what)

    def _check(self, message: Any) -> None:
        kind = message["type"]
        if self.complete:
            self._refuse(f"{kind} after the end of the response")
        if kind.removeprefix("http.response.") in ("early_hint", "push", "debug"):
            if kind not in self.scope["extensions"]:
                self._refuse(f"{kind} is no extension of this server")
        elif kind == START:
            self._check_start(message)
        elif self.status is None:
            self._refuse(f"{kind} before http.response.start")
        elif kind == BODY:
            self._check_body(message)
        elif kind == "http.response.trailers":
            if not (self._trailers and self._body_ended):
                self._refuse("trailers that were not announced, or before the end of the body")
            self.complete = not message.get("more_trailers", False)
        elif kind == "http.response.pathsend":
            if kind not in self.scope["extensions"] or self.body:
                self._refuse("pathsend to a server without it, or after a part of the body")
            self.path = message["path"]
            self.complete = True
        else:
            self._refuse(f"{kind} is not known")
        if self.complete:
            self._turn.set()

    def _check_start(self, message: Any) -> None:
        if self.status is not None:
            self._refuse("a second http.response.start")
        status, headers = message["status"], list(message.get("headers", ()))
        if type(status) is not int or not 100 <= status <= 599:
            self._refuse(f"status {status!r}")
        for name, value in headers:
            if type(name) is not bytes or type(value) is not bytes or name != name.lower():
                self._refuse(f"header {name!r}: {value!r}")
            if any(sign in name + value for sign in (b"\r", b"\n", b"\0")):
                self._refuse(f"header {name!r} forges another one")
        if sum(name == b"content-length" for name, _ in headers) > 1:
            self._refuse("more than one Content-Length")
        self.status, self.headers = status, headers
        self._trailers = bool(message.get("trailers", False))

    def _check_body(self, message: Any) -> None:
        part, more = message.get("body", b""), message.get("more_body", False)
        if self._body_ended:
            self._refuse("a part of the body after its end")
        if not isinstance(part, bytes | bytearray | memoryview) or type(more) is not bool:
            self._refuse(f"body {part!r}, more_body {more!r}")
        self.body += part
        declared = self.declared
        if declared is not None and not self.bodiless:
            if len(self.body) > declared:
                self._refuse("the body is longer than its Content-Length")
            if not more and len(self.body) < declared:
                self._refuse("the body is shorter than its Content-Length")
        if not more:
            self._body_ended = True
            self.complete = not self._trailers

    @property
    def declared(self) -> int | None:
        """The Content-Length of the response."""
        return next((int(value) for name, value in self.headers if name == b"content-length"), None)

    @property
    def bodiless(self) -> bool:
        """Whether the response has no body, whatever its headers say."""
        return self.scope["method"] == "HEAD" or self.status is None or self.status < 200 or self.status in (204, 304)

    # -- one request

    async def run(self, app: Callable[[Any, Any, Any], Awaitable[Any]]) -> "StrictASGIServer":
        """Run *app* for this request; what it raises passes through."""
        scope = {**self.scope, "headers": list(self.scope["headers"])}
        try:
            with anyio.fail_after(20):
                await app(scope, self.receive, self.send)
        finally:
            if scope.keys() != self.scope.keys():
                self.broken.append("something was left in the server's scope")
        return self


def run_asgi(
    app: Callable[[Any, Any, Any], Awaitable[Any]], backend: str = "asyncio", **request: Any
) -> StrictASGIServer:
    """Run one request through *app* on a new event loop, and return what the server saw; nothing may be broken."""
    server, error = attempt_asgi(app, backend, **request)
    if error is not None:
        raise error
    assert not server.broken
    return server


def attempt_asgi(
    app: Callable[[Any, Any, Any], Awaitable[Any]], backend: str = "asyncio", **request: Any
) -> tuple[StrictASGIServer, BaseException | None]:
    """Run one request as `run_asgi` does, and return what was raised out of *app* besides."""

    async def main() -> tuple[StrictASGIServer, BaseException | None]:
        server = StrictASGIServer(**request)
        try:
            await server.run(app)
        except Exception as error:
            return server, error
        return server, None

    return anyio.run(main, backend=backend)


# -- WSGI -------------------------------------------------------------------------------------------------------------

Closing = Literal["normal", "early", "twice", "unread", "in_flight", "generator_exit", "never"]
CLOSINGS: tuple[Closing, ...] = ("normal", "early", "twice", "unread", "in_flight", "generator_exit", "never")


class FileWrapper:
    """A server's `wsgi.file_wrapper`: recognised by its class."""

    def __init__(self, file: Any, block_size: int = 8192) -> None:
        self.file = file
        self.block_size = block_size
        if hasattr(file, "close"):
            self.close = file.close

    def __iter__(self) -> Iterator[bytes]:
        return iter(functools.partial(self.file.read, self.block_size), b"")


@dataclass
class StrictWSGIServer:
    """One request of a server that forgives nothing, and that closes in any of the ways that servers do.

    Args:
        method: The request's.
        accept: The request's Accept header.
        closing: `normal` reads to the end and closes; `early` after the first chunk; `twice`; `unread` without a
            `next`; `in_flight` while its own error is under way; `generator_exit` out of a generator that is closed;
            `never` (it lets the body go).
        content: The request's body.
        writes: Whether `start_response` returns a `write`.
        eager: Whether the head leaves on `start_response` already, as on some servers.
    """

    method: str = "GET"
    accept: str | None = None
    closing: Closing = "normal"
    content: bytes = b""
    writes: bool = True
    file_wrapper: bool = False
    status: str | None = None
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    head_left: bool = False
    ended: bool = False
    raised: BaseException | None = None
    broken: list[str] = field(default_factory=list)
    heads: int = 0
    length: int | None = None
    sent_as_file: bool = False

    @property
    def code(self) -> int | None:
        """The status code, if there is a head."""
        return None if self.status is None else int(self.status[:3])

    @property
    def environ(self) -> dict[str, Any]:
        environ: dict[str, Any] = {"REQUEST_METHOD": self.method, "SCRIPT_NAME": "", "PATH_INFO": "/orders"}
        environ["QUERY_STRING"] = ""
        if self.accept is not None:
            environ["HTTP_ACCEPT"] = self.accept
        if self.file_wrapper:
            environ["wsgi.file_wrapper"] = FileWrapper
        setup_testing_defaults(environ)
        environ["wsgi.input"] = io.BytesIO(self.content)
        environ["CONTENT_LENGTH"] = str(len(self.content))
        environ["wsgi.errors"] = io.StringIO()
        return environ

    def _refuse(self, what: str) -> None:
        self.broken.append(what)
        raise ProtocolBroken(what)

    def start_response(
        self,
        status: str,
        headers: list[tuple[str, str]],
        exc_info: tuple[type[BaseException], BaseException, TracebackType] | None = None,
        /,
    ) -> Callable[[bytes], object] | None:
        if self.status is not None:
            if exc_info is None:
                self._refuse("a second start_response without exc_info")
            elif self.head_left:
                raise exc_info[1].with_traceback(exc_info[2])
        if type(status) is not str or not status[:3].isdecimal() or status[3:4] != " ":
            self._refuse(f"status {status!r}")
        if type(headers) is not list:
            self._refuse(f"headers {headers!r}")
        for pair in headers:
            if type(pair) is not tuple or [type(part) for part in pair] != [str, str]:
                self._refuse(f"header {pair!r}")
            if any(sign in pair[0] + pair[1] for sign in "\r\n\0"):
                self._refuse(f"header {pair[0]!r} forges another one")
        self.status, self.headers = status, headers
        return self._write if self.writes else None

    def _write(self, data: bytes) -> None:
        if type(data) is not bytes:
            self._refuse(f"a part of the body that is no bytes: {data!r}")
        if self.status is None:
            self._refuse("a part of the body before start_response")
        if not data:
            return
        self.heads += not self.head_left
        self.head_left = True
        self.body += data
        if self.declared is not None and not self.bodiless and len(self.body) > self.declared:
            self._refuse("the body is longer than its Content-Length")

    @property
    def declared(self) -> int | None:
        """The Content-Length of the response."""
        return next((int(value) for name, value in self.headers if name.lower() == "content-length"), None)

    @property
    def bodiless(self) -> bool:
        """Whether the response has no body, whatever its headers say."""
        return self.method == "HEAD" or self.code is None or self.code < 200 or self.code in (204, 304)

    def _end(self) -> None:
        if self.status is None:
            self._refuse("no start_response")
        self.heads += not self.head_left
        self.head_left = self.ended = True
        if self.declared is not None and not self.bodiless and len(self.body) < self.declared:
            self._refuse("the body is shorter than its Content-Length")

    def _chunks(self, result: Any) -> Iterator[bytes]:
        length = len(result) if hasattr(result, "__len__") else None
        self.length = length
        count = 0
        for chunk in result:
            count += 1
            yield chunk
        if length is not None and count != length:
            self._refuse(f"len() said {length}, and there were {count} chunks")

    def _serve(self, result: Any) -> None:
        if self.file_wrapper and type(result) is FileWrapper:
            self.sent_as_file = True
        for chunk in self._chunks(result):
            self._write(chunk)
            if self.closing == "early" and chunk:
                return
            if self.closing == "in_flight" and chunk:
                raise ConnectionLost("the client left")
        self._end()

    def run(self, app: Callable[[dict[str, Any], Any], Iterable[bytes]]) -> "StrictWSGIServer":
        """Run *app* for one request; what it raises is kept in `raised`, as a server logs it and goes on."""
        environ = self.environ
        try:
            result = app(environ, self.start_response)
        except Exception as error:
            self.raised = error
            return self
        if not hasattr(result, "__iter__"):
            self.broken.append(f"the application returned {result!r}")
            return self
        close = getattr(result, "close", lambda: None)
        try:
            getattr(self, f"_{self.closing}")(result, close)
        except Exception as error:
            self.raised = error
            if self.closing == "never":
                error.with_traceback(None)  # which would keep the body alive
        return self

    def _normal(self, result: Any, close: Callable[[], object]) -> None:
        try:
            self._serve(result)
        finally:
            close()

    _early = _normal

    def _twice(self, result: Any, close: Callable[[], object]) -> None:
        self._normal(result, close)
        close()

    def _unread(self, result: Any, close: Callable[[], object]) -> None:
        close()

    def _in_flight(self, result: Any, close: Callable[[], object]) -> None:
        try:
            self._serve(result)
        except Exception:
            assert sys.exc_info()[1] is not None
            close()
            raise
        close()

    def _generator_exit(self, result: Any, close: Callable[[], object]) -> None:
        def serving() -> Generator[None, None, None]:
            try:
                for chunk in self._chunks(result):
                    self._write(chunk)
                    yield
                self._end()
            finally:
                close()

        generator = serving()
        with suppress(StopIteration):
            next(generator)
        generator.close()

    def _never(self, result: Any, close: Callable[[], object]) -> None:
        self._serve(result)


def run_wsgi(app: Callable[[dict[str, Any], Any], Iterable[bytes]], **request: Any) -> StrictWSGIServer:
    """Run one request through *app* and return what the server saw; nothing may be broken or raised."""
    server = StrictWSGIServer(**request).run(app)
    if server.raised is not None:
        raise server.raised
    assert not server.broken
    return server


def linted(app: Any, middleware: Callable[[Any], Any]) -> Any:
    """Put `wsgiref.validate` and Werkzeug's lint on both sides of *middleware* around *app*.

    Lint stands inside the validator, which insists on a `readlines` that Lint's own input stream has not; so the inner
    pair gets an input of its own.
    """
    inner: Any = validator(LintMiddleware(app))

    def with_input(environ: dict[str, Any], start_response: Any) -> Any:
        environ["wsgi.input"] = io.BytesIO()
        environ["wsgi.errors"] = io.StringIO()
        return inner(environ, start_response)

    outer: Any = LintMiddleware(middleware(with_input))
    return validator(outer)
