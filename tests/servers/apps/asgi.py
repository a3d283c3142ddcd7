"""The ASGI application: Starlette, an asynchronous session, and the middleware around both.

SQLAlchemy's asyncio extension knows asyncio only; on trio the unit of work is the synchronous one, run on threads.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
from sqlalchemy import QueuePool, create_engine
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.orm import sessionmaker
from sqlalchemy.util import await_only
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from postresponse.asgi import PostResponseMiddleware
from postresponse.unit_of_work.sqlalchemy import AsyncSQLAlchemyUnitOfWork, SQLAlchemyUnitOfWork
from tests.servers.apps.asked import POLL, Asked, asked_in, policy_of
from tests.servers.apps.database import COUNT, POOL, Statements, connect_args, driver_url, statements, watch
from tests.servers.apps.hooks import on_commit_failed, on_error, on_finished
from tests.servers.apps.record import log_to_stderr, record
from tests.servers.apps.work import leave_work, supervisor

ON_ASYNCIO = os.environ.get("POSTRESPONSE_TEST_LOOP", "asyncio") == "asyncio"


def asynchronous_unit() -> tuple[AsyncSQLAlchemyUnitOfWork, AsyncEngine]:
    """Make the unit of work for asyncio; its COMMIT waits without holding the loop."""
    arguments = connect_args(asynchronous=True)
    engine = create_async_engine(driver_url(asynchronous=True), connect_args=arguments, **POOL)
    watch(engine.sync_engine, lambda seconds: await_only(asyncio.sleep(seconds)))
    return AsyncSQLAlchemyUnitOfWork(async_sessionmaker(engine)), engine


def synchronous_unit() -> tuple[SQLAlchemyUnitOfWork, Any]:
    """Make the unit of work for trio, where the middleware runs it on threads."""
    arguments = connect_args(asynchronous=False)
    engine = create_engine(driver_url(asynchronous=False), connect_args=arguments, **POOL)
    watch(engine, time.sleep)
    return SQLAlchemyUnitOfWork(sessionmaker(engine)), engine


async def execute_on_asyncio(asked: Asked, todo: Statements) -> None:
    """Execute statements in this request's session."""
    session = db.session
    (await session.connection()).sync_connection.info["asked"] = asked
    for statement, values in todo:
        await session.execute(statement, values)


def execute_here(asked: Asked, todo: Statements) -> None:
    """Execute statements in this request's session, on the calling thread."""
    session = db.session
    session.connection().info["asked"] = asked
    for statement, values in todo:
        session.execute(statement, values)


async def execute_on_a_thread(asked: Asked, todo: Statements) -> None:
    """Execute statements in this request's session, on a thread of anyio's."""
    await anyio.to_thread.run_sync(execute_here, asked, todo)


async def wait_at(asked: Asked, place: str) -> None:
    """Wait as the synchronous one does, without holding the loop."""
    if asked.hold == place:
        record("held", asked.key, place=place)
        while not asked.gate.exists():  # noqa: ASYNC110 - the other side of this gate is another process
            await anyio.sleep(POLL)


async def produced(asked: Asked) -> AsyncIterator[bytes]:
    """Produce a body of the size asked for; the gate is behind the first piece."""
    for number in range(asked.pieces()):
        if number == 1:
            await wait_at(asked, "body")
        yield asked.piece_at(number)


def decorated(asked: Asked, response: Response) -> Response:
    """Add everything that an error response must not repeat."""
    response.headers["Location"] = f"/orders/{asked.key}"
    response.headers["ETag"] = f'"{asked.key}"'
    response.set_cookie("order", asked.key)
    return response


async def place_order(request: Request) -> Response:
    """Place an order and answer."""
    asked = asked_in(request.scope)
    await wait_at(asked, "handler")
    await execute(asked, statements(asked))
    leave_work(asked)
    return decorated(asked, PlainTextResponse(asked.body, 201))


async def place_order_and_stream(request: Request) -> Response:
    """Place an order and stream the answer."""
    asked = asked_in(request.scope)
    await wait_at(asked, "handler")
    await execute(asked, statements(asked))
    leave_work(asked)
    return decorated(asked, StreamingResponse(produced(asked), 201, media_type="application/octet-stream"))


async def stream(request: Request) -> Response:
    """Stream a body, after a query where one is asked for."""
    asked = asked_in(request.scope)
    if asked.touch:
        await execute(asked, COUNT)
    return StreamingResponse(produced(asked), media_type="application/octet-stream")


async def events(request: Request) -> Response:
    """Send three events, the second after the gate."""
    asked = asked_in(request.scope)
    await execute(asked, COUNT)

    async def produce() -> AsyncIterator[str]:
        for number in range(3):
            if number == 1:
                await wait_at(asked, "body")
            yield f"data: {number}\n\n"

    return StreamingResponse(produce(), media_type="text/event-stream")


async def file(request: Request) -> Response:
    """Answer with a file, as the server likes to send it."""
    leave_work(asked_in(request.scope))
    return FileResponse(__file__)


async def empty(request: Request) -> Response:
    """Answer without a body."""
    asked = asked_in(request.scope)
    leave_work(asked)
    return Response(status_code=asked.status)


async def broken(request: Request) -> Response:
    """Leave work, and fail."""
    leave_work(asked_in(request.scope))
    raise RuntimeError("the application is broken")


async def status(_request: Request) -> Response:
    """Tell the process and the connections that are out of the pool; to be asked through the bare door."""
    assert isinstance(engine.pool, QueuePool)
    return JSONResponse({"pid": os.getpid(), "checked_out": engine.pool.checkedout()})


@asynccontextmanager
async def lifespan(_app: Starlette) -> AsyncIterator[None]:
    """Close what the pool holds when the server ends."""
    yield
    if ON_ASYNCIO:
        await engine.dispose()


log_to_stderr()
db: Any  # one of two, and chosen by the environment: nothing that a type checker could follow
execute: Callable[[Asked, Statements], Awaitable[None]]
if ON_ASYNCIO:
    (db, engine), execute = asynchronous_unit(), execute_on_asyncio
else:
    (db, engine), execute = synchronous_unit(), execute_on_a_thread
starlette_app = Starlette(
    lifespan=lifespan,
    routes=[
        Route("/orders", place_order, methods=["POST"]),
        Route("/orders/streamed", place_order_and_stream, methods=["POST"]),
        Route("/stream", stream),
        Route("/events", events),
        Route("/file", file),
        Route("/empty", empty),
        Route("/broken", broken),
        Route("/status", status),
    ],
)
doors: dict[str, Callable[[Any, Any, Any], Awaitable[Any]]] = {
    "bare": starlette_app,
    "observer": PostResponseMiddleware(
        starlette_app, on_finished=on_finished, on_error=on_error, supervisor=supervisor
    ),
    "unit": PostResponseMiddleware(
        starlette_app,
        unit_of_work=db,
        commit=policy_of,
        on_finished=on_finished,
        on_commit_failed=on_commit_failed,
        on_error=on_error,
        supervisor=supervisor,
    ),
}


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Go in by the door that the request asks for; the lifespan by the main one."""
    door = asked_in(scope).through if scope["type"] == "http" else "unit"
    await doors[door](scope, receive, send)
