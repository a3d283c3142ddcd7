"""Starlette and FastAPI applications whose orders COMMIT refuses, on an SQLite file in the working directory."""

from pathlib import Path
from typing import Any

from fastapi import FastAPI
from sqlalchemy.exc import IntegrityError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route

from postresponse.asgi import PostResponseMiddleware
from postresponse.integrations.starlette import rendered_by
from tests.integrations.shop import REFUSED, Shop

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
site = Starlette(routes=[Route("/", count), Mount("/starlette", inner), Mount("/fastapi", api)])
app = PostResponseMiddleware(site, unit_of_work=shop.adb, error_response=rendered_by(site))
