"""Requests in processes that are killed: run as a program, with what to do as JSON in its arguments.

A statement of a request may be `DEADLOCK`: then MariaDB has rolled that session's transaction back before it is to be
prepared, for real, and the view has swallowed the error, so that MariaDB is the one that refuses.

`places URLS STATEMENTS` forks a process for each place where it could die: before and after each statement that it
sends, to either database. It serves one request through the real middleware and kills itself there, so that neither
Python nor a driver gets to clean up. The last one is not killed. Their stories are printed as JSON.

`load URLS STATEMENTS FROM` serves requests on several threads until it is killed from outside, and prints the number
and the status of each that was answered.
"""

import asyncio
import itertools
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker
from werkzeug.test import create_environ, run_wsgi_app

from postresponse import asgi, wsgi
from postresponse.unit_of_work.composite import TwoPhase
from postresponse.unit_of_work.sqlalchemy import AsyncSQLAlchemyUnitOfWork, SQLAlchemyUnitOfWork

DEADLOCK = "deadlock"
"""In the place of a statement, on a database with the customers 1 to 9."""


@dataclass
class Story:
    """What became of one process.

    Attributes:
        number: What its request stored, or was about to.
        killed: Where it was killed; None for the one that was not.
        status: What its client got, where it was not killed.
    """

    number: int
    killed: str | None
    status: int | None


def run(urls: dict[str, str], statements: dict[str, str]) -> list[Story]:
    """Serve the same request until one is not killed any more.

    Args:
        urls: Of the members' databases, in order.
        statements: What each one's session sends; a `{}` in it becomes the number of the request.
    """
    return list(_stories(urls, statements))


def _stories(urls: dict[str, str], statements: dict[str, str]) -> Iterator[Story]:
    for number in itertools.count():
        source, sink = os.pipe()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                _serve(urls, {name: said.format(number) for name, said in statements.items()}, number, sink)
                status = 0
            finally:
                os._exit(status)
        os.close(sink)
        with os.fdopen(source) as told:
            said = told.read()
        _, ended = os.waitpid(child, 0)
        killed = os.WIFSIGNALED(ended) and os.WTERMSIG(ended) == signal.SIGKILL
        if not killed and os.waitstatus_to_exitcode(ended) != 0:
            raise RuntimeError(f"process {number} failed")
        yield Story(number, said if killed else None, None if killed else int(said))
        if not killed:
            return


def _serve(urls: dict[str, str], statements: dict[str, str], place: int, sink: int) -> None:
    places = itertools.count()

    def listen(member: str, engine: Engine) -> None:
        def here(moment: str, statement: str) -> None:
            if next(places) == place:
                os.write(sink, f"{moment} {member}: {statement.split(' (')[0].split(chr(39))[0].strip()}".encode())
                os.kill(os.getpid(), signal.SIGKILL)

        event.listen(engine, "before_cursor_execute", lambda *args: here("before", args[2]))
        event.listen(engine, "after_cursor_execute", lambda *args: here("after", args[2]))

    serve = _serve_async if any("asyncpg" in url for url in urls.values()) else _serve_sync
    os.write(sink, str(serve(urls, statements, listen)).encode())


def _serve_sync(urls: dict[str, str], statements: dict[str, str], listen: Any) -> int:
    return _get(_application(urls, listen), statements)


def _application(urls: dict[str, str], listen: Any = lambda name, engine: None) -> Any:
    """A WSGI application that sends what it finds in its environ."""
    members = {}
    for name, url in urls.items():
        engine = create_engine(url)
        listen(name, engine)
        members[name] = SQLAlchemyUnitOfWork(sessionmaker(engine))

    def app(environ: Any, start_response: Any) -> list[bytes]:
        for name, statement in environ["statements"].items():
            if statement == DEADLOCK:
                _swallow_a_deadlock(members[name].session, urls[name])
            else:
                members[name].session.execute(text(statement))
        start_response("201 Created", [("Content-Type", "text/plain")])
        return [b"stored"]

    return wsgi.PostResponseMiddleware(app, unit_of_work=TwoPhase(**members))


def _swallow_a_deadlock(session: Session, url: str) -> None:
    """Be in a deadlock with somebody else, as the one that is rolled back because it has done less.

    Whichever of the two comes first waits, and the other one closes the circle.
    """
    holds = threading.Event()

    def other() -> None:
        engine = create_engine(url)
        with engine.connect() as connection:
            connection.execute(text("UPDATE customer SET id = id + 100 WHERE id > 1"))
            holds.set()
            connection.execute(text("SELECT id FROM customer WHERE id = 1 FOR UPDATE"))
        engine.dispose()

    session.execute(text("SELECT id FROM customer WHERE id = 1 FOR UPDATE"))
    thread = threading.Thread(target=other, daemon=True)
    thread.start()
    assert holds.wait(10)
    with pytest.raises(OperationalError, match="1213"):
        session.execute(text("SELECT id FROM customer WHERE id = 2 FOR UPDATE"))
    thread.join()


def _get(application: Any, statements: dict[str, str]) -> int:
    environ = create_environ("/orders", environ_overrides={"statements": statements})
    _, status, _ = run_wsgi_app(application, environ, buffered=True)
    return int(status[:3])


def _serve_async(urls: dict[str, str], statements: dict[str, str], listen: Any) -> int:
    members = {}
    for name, url in urls.items():
        engine = create_async_engine(url)
        listen(name, engine.sync_engine)
        members[name] = AsyncSQLAlchemyUnitOfWork(async_sessionmaker(engine))
    answered: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for name, statement in statements.items():
            await members[name].session.execute(text(statement))
        await send({"type": "http.response.start", "status": 201, "headers": []})
        await send({"type": "http.response.body", "body": b"stored"})

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            answered.append(message["status"])

    scope = {"type": "http", "method": "POST", "path": "/orders", "headers": []}
    asyncio.run(asgi.PostResponseMiddleware(app, unit_of_work=TwoPhase(**members))(scope, receive, send))
    return answered[0]


def serve_until_killed(urls: dict[str, str], statements: dict[str, str], first: int) -> None:
    """Serve one request after the other on each of several threads; their numbers begin with *first*."""
    numbers = itertools.count(first)
    application = _application(urls)

    def serve() -> None:
        for number in numbers:
            status = _get(application, {name: said.format(number) for name, said in statements.items()})
            os.write(1, f"{number} {status}\n".encode())

    for _ in range(4):
        threading.Thread(target=serve).start()


if __name__ == "__main__":
    what, *arguments = sys.argv[1:]
    given = [json.loads(argument) for argument in arguments]
    if what == "load":
        serve_until_killed(*given)
    else:
        print(json.dumps([asdict(story) for story in run(*given)]))
