"""Server-sent events of committed orders; an open stream does not hold the one connection of the pool.

.venv/bin/uvicorn --app-dir examples sse_stream:app --port 8000
curl -N localhost:8000/events & curl -d tea localhost:8000/orders ; curl -d gold localhost:8000/orders
"""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from tempfile import mkdtemp

from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

from postresponse import current_exchange
from postresponse.asgi import PostResponseMiddleware
from postresponse.unit_of_work.sqlalchemy import AsyncSQLAlchemyUnitOfWork

path = Path(mkdtemp(), "shop.sqlite3")
with create_engine(f"sqlite:///{path}").begin() as connection:
    connection.execute(text("CREATE TABLE orders (item TEXT NOT NULL)"))
engine = create_async_engine(f"sqlite+aiosqlite:///{path}", pool_size=1, max_overflow=0, pool_timeout=2)
db = AsyncSQLAlchemyUnitOfWork(async_sessionmaker(engine))
subscribers: set[asyncio.Queue[str]] = set()


async def place(request: Request) -> PlainTextResponse:
    """Store an order; tell the subscribers after the commit."""
    item = (await request.body()).decode()
    await db.session.execute(text("INSERT INTO orders VALUES (:item)"), {"item": item})
    for queue in subscribers:
        current_exchange().after_commit(partial(queue.put_nowait, item))
    return PlainTextResponse(item, 409 if item == "gold" else 201)


async def events(_request: Request) -> StreamingResponse:
    """Send how many orders there are, then each new one."""
    count = await db.session.scalar(text("SELECT count(*) FROM orders"))

    async def stream() -> AsyncIterator[str]:
        subscribers.add(queue := asyncio.Queue[str]())
        try:
            yield f"event: count\ndata: {count}\n\n"
            while True:
                yield f"event: order\ndata: {await queue.get()}\n\n"
        finally:
            subscribers.discard(queue)

    return StreamingResponse(stream(), media_type="text/event-stream")


routes = [Route("/orders", place, methods=["POST"]), Route("/events", events)]
app = PostResponseMiddleware(Starlette(routes=routes), unit_of_work=db)
