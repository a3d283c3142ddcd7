"""A FastAPI application as many are: a session from a `yield` dependency that commits behind the view."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Annotated

from fastapi import Depends, FastAPI
from fastapi.responses import StreamingResponse
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import NullPool

from postresponse import launch
from postresponse.asgi import PostResponseMiddleware
from tests.observing.sites.found import around_asgi
from tests.observing.sites.shop import ASYNC_URL, READ, WRITE, customer_of, engine

api = FastAPI()
Sessions = sessionmaker(engine)
AsyncSessions = async_sessionmaker(create_async_engine(ASYNC_URL, poolclass=NullPool))
released = asyncio.Event()


def get_db() -> Iterator[Session]:
    """A session, committed when all is over."""
    with Sessions() as session:
        yield session
        session.commit()


async def get_async_db() -> AsyncIterator[AsyncSession]:
    """The same, async."""
    async with AsyncSessions() as session:
        yield session
        await session.commit()


Late = Annotated[Session, Depends(get_db)]
AsyncLate = Annotated[AsyncSession, Depends(get_async_db)]
Early = Annotated[Session, Depends(get_db, scope="function")]


@api.post("/sync/{number}")
def sync(number: int, db: Late, refused: bool = False) -> None:
    """Store an order, on a thread."""
    db.execute(WRITE, customer_of(refused))


@api.post("/async/{number}")
async def async_(number: int, db: AsyncLate, refused: bool = False) -> None:
    """Store an order, on the event loop."""
    await db.execute(WRITE, customer_of(refused))


@api.post("/function")
def function(db: Early) -> None:
    """Store an order, which is committed before the response."""
    db.execute(WRITE, customer_of(False))


@api.get("/read")
async def read(db: AsyncLate) -> int:
    """Count the orders; that is committed as well, and changes nothing."""
    return int((await db.execute(READ)).scalar_one())


def store() -> None:
    """Store an order, in a job."""
    with Sessions.begin() as session:
        session.execute(WRITE, customer_of(False))


@api.post("/job")
async def job() -> StreamingResponse:
    """Have a job store an order while the response is streamed."""

    async def body() -> AsyncIterator[bytes]:
        yield b"first "
        await launch(store)
        yield b"second"

    return StreamingResponse(body())


@api.post("/slow")
async def slow(db: AsyncLate) -> StreamingResponse:
    """Stream until another request was answered, and write then."""

    async def body() -> AsyncIterator[bytes]:
        yield b"first "
        await released.wait()
        await db.execute(WRITE, customer_of(False))
        yield b"second"

    return StreamingResponse(body())


@api.post("/release")
async def release(db: Early) -> None:
    """Let that one go on, and commit in time."""
    db.execute(WRITE, customer_of(False))
    released.set()


app = around_asgi(PostResponseMiddleware(api))
