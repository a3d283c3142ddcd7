"""Starlette and FastAPI applications whose orders COMMIT refuses, on an SQLite file in the working directory."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, HTTPException
from fastapi.responses import JSONResponse
from sqlalchemy.exc import IntegrityError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route

from postresponse.asgi import PostResponseMiddleware
from postresponse.integrations.fastapi import commit_inside
from postresponse.integrations.starlette import rendered_by
from tests.integrations.shop import REFUSED, Order, Shop

shop = Shop(Path("shop.sqlite3"))


def count(request: Request) -> Response:
    return PlainTextResponse(str(len(shop.items)))


async def place(request: Request) -> Response:
    assert request.method == "HEAD" or await request.body() == b"item=tea"
    shop.adb.session.add_all(REFUSED["at the commit"]())
    return PlainTextResponse("stored", 201)


async def taken(request: Request, error: Exception) -> Response:
    if request.url.path.endswith("/reports"):
        raise error
    if request.url.path.endswith("/broken"):
        raise ZeroDivisionError
    return PlainTextResponse(await request.body() + b"taken", 409)


async def page(request: Request, error: Exception) -> Response:
    if isinstance(error, ZeroDivisionError):
        raise error
    return HTMLResponse("<h1>Sorry</h1>", 500)


handlers: dict[Any, Any] = {IntegrityError: taken, 500: page}
routes = [Route(path, place, methods=["GET", "POST"]) for path in ("/orders", "/reports", "/broken")]
api = FastAPI(routes=routes, exception_handlers=handlers)  # type: ignore[arg-type]
inner = Starlette(debug=True, routes=routes, exception_handlers=handlers)


async def place_inside(item: str | None = None) -> str:
    """Store an order of *item*, or one that is refused."""
    shop.adb.session.add_all(REFUSED["at the commit"]() if item is None else [Order(item=item)])
    return "stored"


async def taken_inside(request: Request, error: Exception) -> Response:
    return JSONResponse({"detail": "taken"}, 409)


async def catch() -> AsyncIterator[None]:
    try:
        yield
    except IntegrityError as error:
        raise HTTPException(409, "taken") from error


def inside(level: str, around: Any = (), handlers: Any = None) -> Mount:
    """An application that commits inside, by a dependency at some *level*."""
    levels = {name: [commit_inside] if name == level else [] for name in ("application", "router", "operation")}
    committing = FastAPI(dependencies=[*around, *levels["application"]], exception_handlers=handlers)
    router = APIRouter(dependencies=levels["router"])
    router.post("/orders", status_code=201, dependencies=levels["operation"])(place_inside)
    committing.include_router(router)
    return Mount(f"/{'caught-' if around else 'handled-'}{level}", committing)


committing_inside = [
    mount
    for level in ("application", "router", "operation")
    for mount in (inside(level, handlers={IntegrityError: taken_inside}), inside(level, around=[Depends(catch)]))
]
frameworks = [Mount("/starlette", inner), Mount("/fastapi", api), Mount("/inside", routes=committing_inside)]
site = Starlette(routes=[Route("/", count), *frameworks])
app = PostResponseMiddleware(site, unit_of_work=shop.adb, error_response=rendered_by(site))
