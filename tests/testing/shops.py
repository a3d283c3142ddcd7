"""One shop in four frameworks: an order is committed where it is told, a receipt and a cache follow it.

It stands alone: the tests of the plugin copy it beside a user's tests.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from fastapi import FastAPI
from flask import Flask
from sqlalchemy import NullPool, create_engine, text
from sqlalchemy.orm import sessionmaker
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from postresponse import after_response, launch
from postresponse.asgi import PostResponseMiddleware as OverASGI
from postresponse.unit_of_work.sqlalchemy import SQLAlchemyUnitOfWork
from postresponse.wsgi import PostResponseMiddleware as OverWSGI

At = Literal["head", "buffered", "after_send"]
sent: list[str] = []


def send_receipt(item: str) -> None:
    """Send it, and a copy, which is work of its own."""
    sent.append(f"receipt for {item}")
    after_response(send_copy, item)


async def send_copy(item: str) -> None:
    """Send the copy."""
    sent.append(f"copy for {item}")


def database() -> SQLAlchemyUnitOfWork:
    """An empty database of the test's own."""
    folder = Path(tempfile.mkdtemp(prefix="postresponse-shop-"))
    engine = create_engine(f"sqlite:///{folder / uuid4().hex}", poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE orders (item TEXT)"))
    return SQLAlchemyUnitOfWork(sessionmaker(engine))


def place(db: SQLAlchemyUnitOfWork, early: bool) -> None:
    """Store an order; its receipt is sent behind the response, or too early."""
    db.session.execute(text("INSERT INTO orders VALUES ('tea')"))
    (launch if early else after_response)(send_receipt, "tea")


def flask_shop(at: At = "head", *, early: bool = False) -> Any:
    """The shop in Flask."""
    db, app = database(), Flask("shop")

    @app.post("/orders")
    def order() -> tuple[str, int]:
        place(db, early)
        return "stored", 201

    return OverWSGI(app, unit_of_work=db, commit=at)


def django_shop(at: At = "head", *, early: bool = False) -> Any:
    """The shop in Django."""
    from django.conf import settings
    from django.core.wsgi import get_wsgi_application
    from django.http import HttpRequest, HttpResponse
    from django.urls import path

    if not settings.configured:
        settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF="shops_urls", SECRET_KEY="no secret")
    db = database()

    def order(request: HttpRequest) -> HttpResponse:
        place(db, early)
        return HttpResponse("stored", status=201)

    class Urls:
        urlpatterns = (path("orders", order),)

    settings.ROOT_URLCONF = Urls
    app = get_wsgi_application()
    app._urls = Urls
    return OverWSGI(app, unit_of_work=db, commit=at)


def starlette_shop(at: At = "head", *, early: bool = False) -> Any:
    """The shop in Starlette."""
    db = database()

    def order(request: Request) -> PlainTextResponse:
        place(db, early)
        return PlainTextResponse("stored", 201)

    return OverASGI(Starlette(routes=[Route("/orders", order, methods=["POST"])]), unit_of_work=db, commit=at)


def fastapi_shop(at: At = "head", *, early: bool = False) -> Any:
    """The shop in FastAPI."""
    db, app = database(), FastAPI()

    @app.post("/orders", status_code=201)
    def order() -> str:
        place(db, early)
        return "stored"

    return OverASGI(app, unit_of_work=db, commit=at)


SHOPS: dict[str, Callable[..., Any]] = {
    "flask": flask_shop,
    "django": django_shop,
    "starlette": starlette_shop,
    "fastapi": fastapi_shop,
}


def post(name: str, app: Any) -> int:
    """Place an order with the client that comes with the framework; return its status."""
    if name == "flask":
        from werkzeug.test import Client

        return Client(app).post("/orders", buffered=True).status_code
    if name == "django":
        from werkzeug.test import Client  # Django's own makes its handler itself, around no middleware of WSGI's

        return Client(app).post("/orders", buffered=True).status_code
    from starlette.testclient import TestClient

    return TestClient(app).post("/orders").status_code
