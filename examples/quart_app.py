"""Quart: an async session for each request, committed before its answer leaves, and a receipt that follows it.

.venv/bin/hypercorn examples/quart_app.py:app --bind 127.0.0.1:8000
curl -i -d item=tea localhost:8000/orders      # 201, and stored
curl -i -d item=gold localhost:8000/orders     # 409, and nothing stored
curl localhost:8000/orders
"""

from collections.abc import AsyncGenerator
from pathlib import Path
from tempfile import mkdtemp

from quart import Quart, request
from quart.typing import ResponseReturnValue
from sqlalchemy import select
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from postresponse import after_response
from postresponse.integrations.quart import PostResponse
from postresponse.unit_of_work.sqlalchemy import AsyncSQLAlchemyUnitOfWork


class Base(DeclarativeBase):
    """The tables."""


class Order(Base):
    """Something that somebody wants."""

    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[str]


engine = create_async_engine(f"sqlite+aiosqlite:///{Path(mkdtemp(), 'shop.sqlite3')}")
db = AsyncSQLAlchemyUnitOfWork(async_sessionmaker(engine))
app = Quart(__name__)
app.config["POSTRESPONSE_COMMIT"] = "head"
PostResponse(app, unit_of_work=db)


@app.while_serving
async def tables() -> AsyncGenerator[None, None]:
    """Make the tables, and close the connections at the end."""
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield
    await engine.dispose()


@app.post("/orders")
async def place() -> ResponseReturnValue:
    """Store an order, then see whether it can be had."""
    item = (await request.form)["item"]
    db.session.add(Order(item=item))
    await db.session.flush()
    if item == "gold":
        return {"error": "out of stock"}, 409
    after_response(print, f"receipt for {item}")
    return {"item": item}, 201


@app.get("/orders")
async def orders() -> ResponseReturnValue:
    """List what was ordered."""
    return {"items": list(await db.session.scalars(select(Order.item).order_by(Order.id)))}
