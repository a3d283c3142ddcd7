"""Django's entrances: its handlers and servers, and its test clients, which are no servers.

Django's test clients build a request, call their handler and keep the response *object*: nothing of that is WSGI or
ASGI. Here the handler becomes an application for the time of one request, which sends its response through whatever
wraps it; what came out is put back into the response object, where the test looks.
"""

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any
from wsgiref.handlers import BaseHandler as ServerHandler

from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.http.response import ResponseHeaders
from django.test.client import AsyncClientHandler, ClientHandler
from transparency_wrap import Wrapping, inside  # type: ignore[import-not-found]

__all__ = ["wrap"]

Headers = list[tuple[str, str]]


def wrap(wrapping: Wrapping) -> None:
    """Patch every place that Django's suite enters an application at.

    Its live servers and `runserver` stand on wsgiref, whose handler is given the application for each request. Tests
    also call both handlers by hand, and most of them use a test client.
    """
    run = ServerHandler.run

    @functools.wraps(run)
    def run_carried(self: Any, application: Any) -> None:
        run(self, wrapping.wsgi(application))

    ServerHandler.run = run_carried  # type: ignore[method-assign]
    wrapping.outermost_asgi(ASGIHandler, keep=True)
    wrapping.outermost_wsgi(WSGIHandler, keep=True)
    WSGIHandler.__call__ = _answering(WSGIHandler.__call__)
    ClientHandler.__call__ = _client_call(ClientHandler.__call__, wrapping)
    AsyncClientHandler.__call__ = _async_client_call(AsyncClientHandler.__call__, wrapping)


# -- a handler that is called by hand ----------------------------------------------------------------------------------


class _Answer:
    """What a handler returned, with the status and the `bytes` of a Django response, which no iterable has."""

    def __init__(self, body: Any, status: str, headers: Headers) -> None:
        self._body, self.status_code, self._headers = body, int(status[:3]), headers

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._body)

    def __bytes__(self) -> bytes:
        lines = [f"{name}: {value}".encode("latin-1") for name, value in self._headers]
        return b"\r\n".join(lines) + b"\r\n\r\n" + b"".join(self._body)

    def close(self) -> None:
        """Close the body, as a server does."""
        self._body.close()


def _answering(call: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(call)
    def answering(self: Any, environ: Any, start_response: Any) -> Any:
        if inside():
            return call(self, environ, start_response)
        heads: list[tuple[str, Headers]] = []

        def start(status: str, headers: Headers, *exc_info: Any) -> Any:
            heads.append((status, headers))
            return start_response(status, headers, *exc_info)

        body = call(self, environ, start)
        if isinstance(body, environ.get("wsgi.file_wrapper") or ()):
            getattr(body, "close", lambda: None)()  # as every server does, and no test
            return body
        return _Answer(body, *heads[-1])

    return answering


# -- the test clients --------------------------------------------------------------------------------------------------


def _client_call(handle: Callable[..., Any], wrapping: Wrapping) -> Callable[..., Any]:
    @functools.wraps(handle)
    def call(self: Any, environ: Any) -> Any:
        answers: list[Any] = []
        heads: list[tuple[str, Headers]] = []

        def application(environ: Any, start_response: Any) -> Iterable[bytes]:
            response = handle(self, environ)
            answers.append(response)
            start_response(f"{response.status_code} {response.reason_phrase}", _headers(response))
            return _content(response)

        def start_response(status: str, headers: Headers, exc_info: Any = None) -> None:
            heads.append((status, headers))

        body = _Passed(wrapping.wsgi(application)(environ, start_response))
        response = answers[-1]
        status, headers = heads[-1]
        _put_head(response, int(status[:3]), headers)
        if response.streaming and not response.is_async:
            response.streaming_content = body
        else:
            _put_content(response, b"".join(body))
        return response

    return call


def _content(response: Any) -> Iterable[bytes]:
    """Return what a server would iterate; the handler of the test client has closed the response already."""
    if response.streaming:  # an async stream can be iterated by nobody here: its test does it, past the wrapper
        content: Iterable[bytes] = () if response.is_async else response.streaming_content
        return content
    return iter([response.content])


class _Passed:
    """The body as it came through the wrapper, closed where it ends, as a server does; or before, by the response."""

    def __init__(self, body: Any) -> None:
        self._body = body
        self._chunks = iter(body)
        self._busy = self._closed = False

    def __iter__(self) -> "_Passed":
        return self

    def __next__(self) -> bytes:
        self._busy = True
        try:
            chunk: bytes = next(self._chunks)
        except BaseException:
            self._busy = False
            self.close()
            raise
        self._busy = False
        return chunk

    def close(self) -> None:
        """Close the body once, but never out of its own `next`: a stream's end closes the response it belongs to."""
        if not self._busy and not self._closed:
            self._closed = True
            getattr(self._body, "close", lambda: None)()


def _async_client_call(handle: Callable[..., Any], wrapping: Wrapping) -> Callable[..., Any]:
    @functools.wraps(handle)
    async def call(self: Any, scope: Any) -> Any:
        answers: list[Any] = []
        messages: list[Any] = []

        async def application(scope: Any, receive: Any, send: Any) -> None:
            response = await handle(self, scope)
            answers.append(response)
            headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in _headers(response)]
            await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
            async for part in _parts(response):
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        async def send(message: Any) -> None:
            messages.append(message)

        await wrapping.asgi(application)(scope, _Receive(), send)
        response = answers[-1]
        start, *parts = messages
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in start["headers"]]
        _put_head(response, start["status"], headers)
        content = [part["body"] for part in parts if part["body"]]
        if response.streaming:
            response.streaming_content = _each(content) if response.is_async else content
        else:
            _put_content(response, b"".join(content))
        return response

    return call


class _Receive:
    """The `receive` of a client that sends no body (the handler reads it from the request itself) and never leaves."""

    def __init__(self) -> None:
        self._asked = False

    async def __call__(self) -> dict[str, Any]:
        if self._asked:
            await asyncio.Event().wait()
        self._asked = True
        return {"type": "http.request", "body": b"", "more_body": False}


async def _parts(response: Any) -> AsyncIterator[bytes]:
    if response.streaming and response.is_async:
        async for part in response.streaming_content:
            yield part
    else:
        for part in response.streaming_content if response.streaming else [response.content]:
            yield part


async def _each(parts: Iterable[bytes]) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


# -- putting back what came through ------------------------------------------------------------------------------------


def _headers(response: Any) -> Headers:
    cookies = [("Set-Cookie", cookie.output(header="").strip()) for cookie in response.cookies.values()]
    return [*response.items(), *cookies]


def _put_head(response: Any, status: int, headers: Headers) -> None:
    """Let *response* have the status and headers that came through, where they are not its own."""
    if status != response.status_code:
        response.status_code = status
    if _lowered(headers) != _lowered(_headers(response)):
        own = {name.lower(): name for name in response.headers}
        kept = [(own.get(name.lower(), name), value) for name, value in headers if name.lower() != "set-cookie"]
        response.headers = ResponseHeaders(kept)
        if not any(name.lower() == "set-cookie" for name, _ in headers):
            response.cookies.clear()


def _put_content(response: Any, content: bytes) -> None:
    if not response.streaming and content != response.content:
        response.content = content


def _lowered(headers: Headers) -> Headers:
    return [(name.lower(), value) for name, value in headers]
