"""Litestar: the plugin commits before the head leaves, and an exception handler answers what COMMIT refuses.

.venv/bin/uvicorn --app-dir examples litestar_app:app --port 8000
curl -i --json '{"item": "tea"}' localhost:8000/orders      # 201, and stored
curl -i --json '{"item": "gold"}' localhost:8000/orders     # 409, and nothing stored
curl localhost:8000/orders
"""

from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from litestar import Litestar, Request, Response, get, post
from litestar.di import NamedDependency
from sqlalchemy import ForeignKey, create_engine, event, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from postresponse.integrations.litestar import PostResponsePlugin
from postresponse.unit_of_work.sqlalchemy import AsyncSQLAlchemyUnitOfWork


class Base(DeclarativeBase):
    """The tables."""


class Metal(Base):
    """What there is in stock of what is precious: nothing."""

    __tablename__ = "metals"
    name: Mapped[str] = mapped_column(primary_key=True)


class Order(Base):
    """Something that somebody wants; COMMIT looks whether a metal is there."""

    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[str]
    metal: Mapped[str | None] = mapped_column(ForeignKey(Metal.name, deferrable=True, initially="DEFERRED"))


path = Path(mkdtemp(), "shop.sqlite3")
Base.metadata.create_all(create_engine(f"sqlite:///{path}"))
engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
event.listen(engine.sync_engine, "connect", lambda connection, record: connection.execute("PRAGMA foreign_keys=ON"))
db = AsyncSQLAlchemyUnitOfWork(async_sessionmaker(engine))


@post("/orders")
async def place(data: dict[str, str], db_session: NamedDependency[AsyncSession]) -> dict[str, str]:
    """Store an order."""
    db_session.add(Order(item=data["item"], metal="gold" if data["item"] == "gold" else None))
    return data


@get("/orders")
async def orders(db_session: NamedDependency[AsyncSession]) -> list[str]:
    """List what was ordered."""
    return list(await db_session.scalars(select(Order.item).order_by(Order.id)))


def refused(request: Request[Any, Any, Any], error: IntegrityError) -> Response[dict[str, str]]:
    """Answer a commit that was refused."""
    return Response({"error": "out of stock"}, status_code=409)


plugin = PostResponsePlugin(unit_of_work=db)
app = Litestar([place, orders], plugins=[plugin], exception_handlers={IntegrityError: refused})
