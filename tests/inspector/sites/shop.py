"""A shop on Starlette and SQLite, with a unit of work, work after the response, and an outbox.

Its database is in the working directory.
"""

import os
from collections.abc import AsyncIterator
from time import monotonic_ns

import anyio
from sqlalchemy import MetaData, create_engine, text
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from postresponse import after_response, commit_policy, current_exchange
from postresponse.asgi import PostResponseMiddleware
from postresponse.core.log import ROUTE
from postresponse.inspector import Finding, Inspector
from postresponse.messaging import Message, Outbox
from postresponse.observing import ObservedCommit
from postresponse.unit_of_work.sqlalchemy import AsyncSQLAlchemyUnitOfWork
from postresponse.work import Bulkhead

PATH = os.path.abspath("shop.sqlite3")
metadata = MetaData()
outbox = Outbox({"mail": ["send_receipt"]}, metadata)
with create_engine(f"sqlite:///{PATH}").begin() as connection:
    metadata.create_all(connection)
    connection.execute(text("CREATE TABLE IF NOT EXISTS orders (item TEXT NOT NULL)"))
engine = create_async_engine(f"sqlite+aiosqlite:///{PATH}")
db = AsyncSQLAlchemyUnitOfWork(async_sessionmaker(engine))


async def show(request: Request) -> Response:
    """Read, and commit nothing."""
    request.scope[ROUTE] = "/orders/{id}"
    return PlainTextResponse(request.path_params["id"])


async def place(request: Request) -> Response:
    """Store an order, with a message and a job; or refuse one."""
    await db.session.execute(text("INSERT INTO orders VALUES (:item)"), {"item": request.path_params["item"]})
    outbox.enlist(Message("mail", "send_receipt"))
    after_response(send_receipt)
    return Response(status_code=409 if request.path_params["item"] == "gold" else 201)


async def send_receipt() -> None:
    """Take a moment."""
    await anyio.sleep(0.005)


async def invite(request: Request) -> Response:
    """Start a job that fails."""
    after_response(refuse)
    return Response(status_code=201)


def refuse() -> None:
    """Fail."""
    raise LookupError("<b>nobody</b> of that name")


async def late(request: Request) -> Response:
    """Commit behind the head, past the package: what an observer of commits would have told is told here."""
    exchange = current_exchange()
    exchange.scope["postresponse.tenant"] = "globex"

    async def body() -> AsyncIterator[bytes]:
        yield b"half"
        at = monotonic_ns()
        exchange._commits = [ObservedCommit(at, at + 22_100_000, True, True, None, "sqlalchemy", "get_db (shop.py:7)")]
        await anyio.sleep(0.03)
        yield b"half"

    return StreamingResponse(body())


async def fail(request: Request) -> Response:
    """Raise out of the application when half of its response is gone."""

    async def body() -> AsyncIterator[bytes]:
        yield b"half"
        raise RuntimeError("the <i>shop</i> is closed")

    return StreamingResponse(body())


@commit_policy("after_send")
async def visit(request: Request) -> Response:
    """Commit after the last byte."""
    await db.session.execute(text("INSERT INTO orders VALUES ('a visit')"))
    return Response(status_code=202)


async def anything(request: Request) -> Response:
    """Answer whatever is asked for."""
    request.scope[ROUTE] = request.url.path  # where no route tells a template
    return PlainTextResponse("anything")


released = anyio.Event()
one_mailer = Bulkhead("mailer")


async def mail_all(request: Request) -> Response:
    """Start two pieces of work that wait until they are released, one behind the other; or release them."""
    global released
    if request.method == "DELETE":
        released.set()
        released = anyio.Event()
        return Response(status_code=204)
    current_exchange().scope["postresponse.tenant"] = "acme"
    for name in ("mail_first", "mail_second"):
        after_response(released.wait, bulkhead="mailer", name=name)
    return Response(status_code=202)


def findings() -> list[Finding]:
    """One of each kind."""
    return [Finding("it is well"), Finding("it is <b>badly</b> set up", "mend it", problem=True)]


inspector = Inspector(outbox=engine, findings=findings, store=os.environ.get("INSPECTOR_STORE"))
routes = [
    Route("/orders/{id}", show, methods=["GET"]),
    Route("/orders/{item}", place, methods=["POST"]),
    Route("/invitations", invite, methods=["POST"]),
    Route("/late", late),
    Route("/fail", fail),
    Route("/mails", mail_all, methods=["POST", "DELETE"]),
    Route("/visits", visit, methods=["POST"]),
    Route("/{rest:path}", anything),
]
app = PostResponseMiddleware(Starlette(routes=routes), unit_of_work=db, inspector=inspector)
