"""ASGI without a framework: one coroutine, wrapped; the report of how each response ended goes to standard output.

.venv/bin/uvicorn --app-dir examples plain_asgi:app --port 8000
curl -i -d tea localhost:8000      # 201, and stored
curl -i -d gold localhost:8000     # 409, and nothing stored
curl localhost:8000
"""

from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from postresponse import Outcome
from postresponse.asgi import PostResponseMiddleware
from postresponse.unit_of_work.sqlalchemy import AsyncSQLAlchemyUnitOfWork

path = Path(mkdtemp(), "shop.sqlite3")
with create_engine(f"sqlite:///{path}").begin() as connection:
    connection.execute(text("CREATE TABLE orders (item TEXT NOT NULL)"))
db = AsyncSQLAlchemyUnitOfWork(async_sessionmaker(create_async_engine(f"sqlite+aiosqlite:///{path}")))


async def shop(scope: Any, receive: Any, send: Any) -> None:
    """Take an order, or list all."""
    assert scope["type"] == "http"
    if scope["method"] == "POST":
        item = await read_body(receive)
        await db.session.execute(text("INSERT INTO orders VALUES (:item)"), {"item": item})
        status, answer = (409 if item == "gold" else 201), item
    else:
        items = await db.session.scalars(text("SELECT item FROM orders ORDER BY rowid"))
        status, answer = 200, "".join(f"{item}\n" for item in items)
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": answer.encode()})


async def read_body(receive: Any) -> str:
    """Read the whole body of a request."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    return body.decode()


def report(outcome: Outcome) -> None:
    """Say how a response ended and what became of its unit of work."""
    print(f"{outcome.status} {outcome.ending}, unit of work {outcome.unit_of_work}", flush=True)


app = PostResponseMiddleware(shop, unit_of_work=db, on_finished=report)
