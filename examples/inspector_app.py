"""The inspector: a page on which each request shows when its response left, and when it committed.

.venv/bin/uvicorn --app-dir examples inspector_app:app --port 8000
curl -i -d '{"item": "tea"}' -H 'Content-Type: application/json' localhost:8000/orders
curl -i -d '{"item": "gold"}' -H 'Content-Type: application/json' localhost:8000/orders
Open http://localhost:8000/__postresponse__/ beside it; it has a new row for each of them, and for /export and /visits.
"""

from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import mkdtemp

import anyio
from fastapi import Body, FastAPI, HTTPException
from fastapi.responses import StreamingResponse
from sqlalchemy import MetaData, create_engine, text
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from postresponse import after_response, commit_policy
from postresponse.asgi import PostResponseMiddleware
from postresponse.inspector import Inspector
from postresponse.messaging import Message, Outbox, Relay
from postresponse.unit_of_work.sqlalchemy import AsyncSQLAlchemyUnitOfWork

metadata = MetaData()
outbox = Outbox({"mail": ["send_receipt"]}, metadata)
path = Path(mkdtemp(), "shop.sqlite3")
with create_engine(f"sqlite:///{path}").begin() as connection:
    metadata.create_all(connection)
    connection.execute(text("CREATE TABLE orders (item TEXT NOT NULL)"))
engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
db = AsyncSQLAlchemyUnitOfWork(async_sessionmaker(engine))
relay = Relay(outbox, engine, {"mail": print}, autostart=True)
api = FastAPI()
app = PostResponseMiddleware(api, unit_of_work=db, inspector=Inspector(outbox=relay))


@api.post("/orders", status_code=201)
async def place(item: str = Body(embed=True)) -> dict[str, str]:
    """Store an order: committed before the first byte, with the message that tells of it."""
    await db.session.execute(text("INSERT INTO orders VALUES (:item)"), {"item": item})
    if item == "gold":
        raise HTTPException(409, "out of stock")  # rolled back
    outbox.enlist(Message("mail", "send_receipt", {"item": item}))
    after_response(warm_cache, item)
    return {"item": item}


async def warm_cache(item: str) -> None:
    """Work after the response; it has a bar of its own."""
    await anyio.sleep(0.02)
    if item == "coal":
        raise LookupError("the cache takes no coal")


@api.get("/export")
async def export() -> StreamingResponse:
    """Stream: the body is the longest bar."""

    async def lines() -> AsyncIterator[str]:
        for number in range(5):
            yield f"{number}\n"
            await anyio.sleep(0.01)

    return StreamingResponse(lines(), media_type="text/csv")


@api.post("/visits", status_code=202)
@commit_policy("after_send")
async def visit() -> None:
    """Committed after the last byte, by choice: a visit may be lost."""
    await db.session.execute(text("INSERT INTO orders VALUES ('a visit')"))
