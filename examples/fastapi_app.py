"""FastAPI: the session is a dependency that commits before the response starts, and an HTTPException rolls back.

.venv/bin/uvicorn --app-dir examples fastapi_app:app --port 8000
curl -i --json '{"item": "tea"}' localhost:8000/orders      # 201, and stored
curl -i --json '{"item": "gold"}' localhost:8000/orders     # 409, and nothing stored
curl localhost:8000/orders
"""

from pathlib import Path
from tempfile import mkdtemp
from typing import Annotated

from fastapi import Body, FastAPI, HTTPException
from sqlalchemy import create_engine, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from postresponse.asgi import PostResponseMiddleware
from postresponse.integrations.fastapi import session_of
from postresponse.unit_of_work.sqlalchemy import AsyncSQLAlchemyUnitOfWork


class Base(DeclarativeBase):
    """The tables."""


class Order(Base):
    """Something that somebody wants."""

    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[str]


path = Path(mkdtemp(), "shop.sqlite3")
Base.metadata.create_all(create_engine(f"sqlite:///{path}"))
db = AsyncSQLAlchemyUnitOfWork(async_sessionmaker(create_async_engine(f"sqlite+aiosqlite:///{path}")))
api = FastAPI()
app = PostResponseMiddleware(api, unit_of_work=db)
RequestSession = Annotated[AsyncSession, session_of(db)]


@api.post("/orders", status_code=201)
async def place(item: Annotated[str, Body(embed=True)], session: RequestSession) -> int:
    """Store an order, then see whether it can be had."""
    session.add(order := Order(item=item))
    await session.flush()
    if item == "gold":
        raise HTTPException(409, "out of stock")
    return order.id


@api.get("/orders")
async def orders(session: RequestSession) -> list[str]:
    """List what was ordered."""
    return list(await session.scalars(select(Order.item).order_by(Order.id)))
