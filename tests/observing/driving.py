"""One request to an application that commits by itself, on a strict server, with somebody who looks on."""

from collections.abc import Callable, Iterator
from typing import Any

import anyio
from sqlalchemy import Engine, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from postresponse import asgi, wsgi
from postresponse.observing import Observer, Trace
from tests.fakes import StrictASGIServer, StrictWSGIServer
from tests.work.waiting import aidle

WRITE = text("INSERT INTO orders VALUES (:customer)")
READ = text("SELECT count(*) FROM orders")


class Traces(Observer):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.traces: list[Trace] = []

    def ended(self, trace: Trace, begun: object) -> None:
        self.traces.append(trace)

    @property
    def seen(self) -> list[tuple[bool, bool, bool]]:
        """Of each commit of the one request that there was: whether it was late, wrote, and failed."""
        (trace,) = self.traces
        return [(commit.late, commit.wrote, commit.exception is not None) for commit in trace.commits]


def store(engine: Engine, customer: int | None = None) -> None:
    """Store an order, and commit."""
    with Session(engine) as session:
        session.execute(WRITE, {"customer": customer})
        try:
            session.commit()
        except IntegrityError:
            session.rollback()
            raise


def serve(app: Callable[..., Any], **options: Any) -> Traces:
    """Let a strict WSGI server handle one request to *app*, which is given the server too."""
    told, server = Traces(), StrictWSGIServer()

    def wsgi_app(environ: Any, start_response: Any) -> Any:
        return app(start_response, server)

    server.run(wsgi.PostResponseMiddleware(wsgi_app, observers=[told], **options))
    assert not server.broken
    return told


HEAD = ("200 OK", [("Content-Type", "text/plain")])
SIZED = ("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "10")])


class Chunks:
    """An iterator of a class of its own, as frameworks have them."""

    def __init__(self, chunks: Iterator[bytes], close: Callable[[], None] = lambda: None) -> None:
        self._chunks = chunks
        self.close = close

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return next(self._chunks)


def aserve(app: Callable[[Any], Any], **options: Any) -> Traces:
    """Let a strict ASGI server handle one request to *app*, on asyncio."""
    told = Traces()

    async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
        await app(send)

    async def main() -> None:
        await StrictASGIServer().run(asgi.PostResponseMiddleware(asgi_app, observers=[told], **options))
        if "supervisor" in options:
            await aidle(options["supervisor"])
            await options["supervisor"].aclose()

    anyio.run(main)
    return told
