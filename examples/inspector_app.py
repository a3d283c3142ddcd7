"""The inspector, http://localhost:8000/__postresponse__/: when each response left, and when its commit came.

.venv/bin/uvicorn --app-dir examples inspector_app:app --port 8000
curl -X POST 'localhost:8000/{orders/tea,orders/gold,orders/coal,reviews,visits}' --next localhost:8000/export
"""

import asyncio
from collections.abc import AsyncIterator
from tempfile import mkdtemp
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from fastapi.responses import StreamingResponse
from sqlalchemy import Column, MetaData, String, Table, create_engine, insert
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from postresponse import after_response, commit_policy
from postresponse.asgi import PostResponseMiddleware
from postresponse.inspector import Inspector
from postresponse.messaging import Message, Outbox, Relay
from postresponse.unit_of_work.sqlalchemy import AsyncSQLAlchemyUnitOfWork

path = f"{mkdtemp()}/shop.sqlite3"
orders = Table("orders", MetaData(), Column("item", String))
outbox = Outbox({"mail": ["send_receipt"]}, orders.metadata)
orders.metadata.create_all(create_engine(f"sqlite:///{path}"))
engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
sessions = async_sessionmaker(engine)
db = AsyncSQLAlchemyUnitOfWork(sessions)
relay = Relay(outbox, engine, {"mail": print}, autostart=True)
api = FastAPI()
app = PostResponseMiddleware(api, unit_of_work=db, inspector=Inspector(outbox=relay))


@api.post("/orders/{item}", status_code=201)
async def place(item: str) -> None:
    """Store an order: committed before the first byte, with the message that tells of it."""
    await db.session.execute(insert(orders).values(item=item))
    if item == "gold":
        raise HTTPException(409, "out of stock")  # rolled back
    outbox.enlist(Message("mail", "send_receipt", {"item": item}))
    after_response(warm_cache, item)


async def warm_cache(item: str) -> None:
    """Work after the response; it has a bar of its own."""
    await asyncio.sleep(0.02)
    assert item != "coal", "the cache takes no coal"


async def get_db() -> AsyncIterator[AsyncSession]:
    """The usual dependency: FastAPI goes on behind its yield when the response is gone."""
    async with sessions() as session:
        yield session
        await session.commit()


@api.post("/reviews", status_code=201)
async def review(session: Annotated[AsyncSession, Depends(get_db)]) -> None:
    """Committed AFTER the first byte: were it to fail, the client would have its 201 all the same."""
    await session.execute(insert(orders).values(item="a review"))


@api.post("/visits", status_code=202)
@commit_policy("after_send")
async def visit() -> None:
    """Committed after the last byte as well, but by choice: a visit may be lost."""
    await db.session.execute(insert(orders).values(item="a visit"))


@api.get("/export")
async def export() -> StreamingResponse:
    """Stream: the body is the longest bar."""
    return StreamingResponse(await asyncio.sleep(0.01, f"{number}\n") for number in range(5))
