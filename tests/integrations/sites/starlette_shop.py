"""The shop of the scenarios in Starlette, as an inner middleware: its exception handlers answer a failed commit."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sqlalchemy.exc import IntegrityError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from postresponse import after_response
from postresponse.asgi import PostResponseMiddleware
from postresponse.integrations.starlette import rendered_by
from tests.integrations.shop import Shop
from tests.integrations.sites.modes import for_asgi
from tests.integrations.sites.trading import aparts, ordered, slowly

shop = Shop(Path("shop.sqlite3"))


async def place(request: Request) -> Response:
    item = request.path_params["item"]
    shop.adb.session.add(ordered(item))
    return PlainTextResponse("stored", 201, {"Location": f"/orders/{item}"})


async def stream(request: Request) -> Response:
    item = request.path_params["item"]
    shop.adb.session.add(ordered(item))
    return StreamingResponse(aparts(item))


async def slow(request: Request) -> Response:
    item = request.path_params["item"]
    shop.adb.session.add(ordered(item))
    after_response(slowly, item)
    return PlainTextResponse("stored", 201)


async def refused(request: Request, error: Exception) -> Response:
    return PlainTextResponse("refused", 409)


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """Close what work may need: behind the drain."""
    yield
    await shop.async_engine.dispose()


routes = [
    Route("/orders/{item}", place, methods=["POST"]),
    Route("/stream/{item}", stream),
    Route("/slow/{item}", slow, methods=["POST"]),
]


def create_app(mode: Any) -> Starlette:
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers={IntegrityError: refused})
    app.add_middleware(PostResponseMiddleware, unit_of_work=shop.adb, commit=mode, error_response=rendered_by(app))
    return app


app = for_asgi(create_app)
