"""Starlette: a background task runs after the commit, also after one that failed, and asks which it was.

.venv/bin/uvicorn --app-dir examples starlette_app:app --port 8000
curl -i --json '{"item": "tea"}' localhost:8000/orders      # 201, and stored
curl -i --json '{"item": "gold"}' localhost:8000/orders     # 409, and nothing stored
curl localhost:8000/receipts                                # for the tea only
"""

from pathlib import Path
from tempfile import mkdtemp

from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from postresponse import current_exchange
from postresponse.asgi import PostResponseMiddleware
from postresponse.unit_of_work.sqlalchemy import AsyncSQLAlchemyUnitOfWork

path = Path(mkdtemp(), "shop.sqlite3")
with create_engine(f"sqlite:///{path}").begin() as connection:
    connection.execute(text("CREATE TABLE orders (item TEXT NOT NULL)"))
db = AsyncSQLAlchemyUnitOfWork(async_sessionmaker(create_async_engine(f"sqlite+aiosqlite:///{path}")))
receipts: list[str] = []


async def place(request: Request) -> JSONResponse:
    """Store an order, then see whether it can be had."""
    item: str = (await request.json())["item"]
    await db.session.execute(text("INSERT INTO orders VALUES (:item)"), {"item": item})
    status = 409 if item == "gold" else 201
    return JSONResponse({"item": item}, status, background=BackgroundTask(send_receipt, item))


def send_receipt(item: str) -> None:
    """Send a receipt for what was stored, and for nothing else."""
    if current_exchange().unit_of_work == "committed":
        receipts.append(item)


async def orders(_request: Request) -> JSONResponse:
    """List what was ordered."""
    return JSONResponse({"items": list(await db.session.scalars(text("SELECT item FROM orders ORDER BY rowid")))})


async def list_receipts(_request: Request) -> JSONResponse:
    """List the receipts that were sent."""
    return JSONResponse({"items": receipts})


routes = [Route("/orders", place, methods=["POST"]), Route("/orders", orders), Route("/receipts", list_receipts)]
app = Starlette(routes=routes, middleware=[Middleware(PostResponseMiddleware, unit_of_work=db)])
