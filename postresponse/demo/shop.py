"""The same small shop three times: what differs is who commits an order, and when."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI
from pydantic import BaseModel
from sqlalchemy import ForeignKey, event
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from starlette.applications import Starlette
from starlette.routing import Mount

from postresponse.asgi import PostResponseMiddleware
from postresponse.demo.ways import AFTER_SEND, HEAD, YIELD
from postresponse.typing import ASGIApplication
from postresponse.unit_of_work.sqlalchemy import AsyncSQLAlchemyUnitOfWork

__all__ = ["Base", "Customer", "Order", "make_app"]


class Base(DeclarativeBase):
    """The tables of the shop."""


class Customer(Base):
    """Somebody who may order."""

    __tablename__ = "customers"
    id: Mapped[int] = mapped_column(primary_key=True)


class Order(Base):
    """An order; whether its customer exists is looked at inside COMMIT, and not before."""

    __tablename__ = "orders"
    id: Mapped[str] = mapped_column(primary_key=True)
    customer: Mapped[int] = mapped_column(ForeignKey("customers.id", deferrable=True, initially="DEFERRED"))


class NewOrder(BaseModel):
    """The body of POST /orders."""

    id: str
    customer: int


def make_app(database: Path) -> ASGIApplication:
    """Return the three shops under their names; each has an engine of its own, and all share the *database* file."""
    engines = [make_engine(database) for _ in range(3)]
    shops: dict[str, ASGIApplication] = {
        YIELD.name: with_yield_dependency(engines[0]),
        HEAD.name: with_postresponse(engines[1], "head"),
        AFTER_SEND.name: with_postresponse(engines[2], "after_send"),
    }

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        yield
        for engine in engines:
            await engine.dispose()

    return Starlette(lifespan=lifespan, routes=[Mount(f"/{name}", shop) for name, shop in shops.items()])


def make_engine(database: Path) -> AsyncEngine:
    """Return an engine on SQLite as one would set it up: foreign keys on, WAL, a busy timeout."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{database}")

    @event.listens_for(engine.sync_engine, "connect")
    def configure(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        for pragma in ("foreign_keys=ON", "journal_mode=WAL", "busy_timeout=5000"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    return engine


def with_yield_dependency(engine: AsyncEngine) -> FastAPI:
    """Commit in a dependency, after its `yield`; roll back what fails."""
    sessions = async_sessionmaker(engine)

    async def session() -> AsyncIterator[AsyncSession]:
        async with sessions() as session:
            try:
                yield session
                await session.commit()
            except Exception:
                await session.rollback()
                raise

    return shop(session)


def with_postresponse(engine: AsyncEngine, commit: Any) -> ASGIApplication:
    """Leave it to the middleware."""
    db = AsyncSQLAlchemyUnitOfWork(async_sessionmaker(engine))

    async def session() -> AsyncSession:
        return db.session

    return PostResponseMiddleware(shop(session), unit_of_work=db, commit=commit)


def shop(session: Callable[[], Awaitable[AsyncSession] | AsyncIterator[AsyncSession]]) -> FastAPI:
    """Return an application that takes orders with what *session* gives it."""
    app = FastAPI()

    @app.post("/orders", status_code=201)
    async def place(order: NewOrder, session: Annotated[AsyncSession, Depends(session)]) -> NewOrder:
        session.add(Order(id=order.id, customer=order.customer))
        await session.flush()
        return order

    return app
