"""The built-in application: it stores an order, and answers with all that an error response must not repeat.

A deferred foreign key makes its COMMIT fail, and nothing before it.
"""

import os
import time
from collections.abc import Iterator
from functools import cache
from typing import Any, Final

import anyio
import anyio.lowlevel
import anyio.to_thread
from sqlalchemy import create_engine, event, text
from sqlalchemy.orm import sessionmaker

from postresponse import after_response, asgi, wsgi
from postresponse.testing.conformance.record import record
from postresponse.unit_of_work.sqlalchemy import SQLAlchemyUnitOfWork

__all__ = ["DATABASE", "asgi_shop", "prepare", "wsgi_shop"]

DATABASE: Final = "POSTRESPONSE_CONFORMANCE_DATABASE"
PIECE: Final = b"x" * 65536
TABLES: Final = (
    "CREATE TABLE orders (key TEXT PRIMARY KEY)",
    "CREATE TABLE lines (order_key TEXT NOT NULL REFERENCES orders (key) DEFERRABLE INITIALLY DEFERRED)",
)


@cache
def _db() -> SQLAlchemyUnitOfWork:
    engine = create_engine(f"sqlite:///{os.environ[DATABASE]}", connect_args={"timeout": 10.0})

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA foreign_keys=ON")

    return SQLAlchemyUnitOfWork(sessionmaker(engine))


def prepare(path: str) -> None:
    """Make the tables in the file *path*."""
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        for table in TABLES:
            connection.execute(text(table))
    engine.dispose()


def _store(asked: dict[str, str]) -> list[tuple[str, str]]:
    """Store the order, leave its work, and return the headers of the answer."""
    key, session = asked["key"], _db().session
    session.execute(text("INSERT INTO orders VALUES (:key)"), {"key": key})
    if asked.get("fail"):
        session.execute(text("INSERT INTO lines VALUES ('no such order')"))
    if asked.get("work"):
        after_response(_work, key, float(asked["work"]))
    named = ("ETag", f'"{key}"'), ("Set-Cookie", f"order={key}"), ("Location", f"/orders/{key}")
    return [("Content-Type", "text/plain"), *named]


def _work(key: str, seconds: float) -> None:
    record("work began", key)
    time.sleep(seconds)
    record("work done", key)


async def _answer_asgi(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        raise ValueError(scope["type"])  # the middleware answers the lifespan
    asked = scope["conformance"]
    # On a thread: on the loop, a statement that waits for another request's lock would wait for ever.
    stored = await anyio.to_thread.run_sync(_store, asked)
    headers = [(name.lower().encode(), value.encode()) for name, value in stored]
    await send({"type": "http.response.start", "status": 201, "headers": headers})
    for _ in range(int(asked.get("pieces", "0"))):
        await send({"type": "http.response.body", "body": PIECE, "more_body": True})
        await anyio.lowlevel.checkpoint()
    await send({"type": "http.response.body", "body": asked["key"].encode()})


def _answer_wsgi(environ: Any, start_response: Any) -> Iterator[bytes]:
    asked = environ["conformance"]
    start_response("201 Created", _store(asked))
    return _produced(asked)


def _produced(asked: dict[str, str]) -> Iterator[bytes]:
    for _ in range(int(asked.get("pieces", "0"))):
        yield PIECE
    yield asked["key"].encode()


def asgi_shop() -> Any:
    """The application for ASGI, inside the middleware."""
    return asgi.PostResponseMiddleware(_answer_asgi, unit_of_work=_db())


def wsgi_shop() -> Any:
    """The application for WSGI, inside the middleware."""
    return wsgi.PostResponseMiddleware(_answer_wsgi, unit_of_work=_db())
