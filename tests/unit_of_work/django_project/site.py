"""The project as servers run it: `asgi` and `wsgi`, on an SQLite file in the working directory."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.db import connection
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.urls import path

from postresponse import current_exchange
from postresponse.asgi import PostResponseMiddleware
from postresponse.core.lifecycle import Outcome
from postresponse.unit_of_work.django import DjangoUnitOfWork
from postresponse.wsgi import PostResponseMiddleware as WSGIMiddleware
from tests.unit_of_work.django_project import configure, create_tables

configure(Path.cwd())

from tests.unit_of_work.django_project.models import Order  # noqa: E402 (models need settings)


def place(request: HttpRequest) -> HttpResponse:
    """Place an order; it cannot be committed where `fail` is asked for."""
    current_exchange().policy = request.GET["at"]
    order = Order.objects.create(**_order(request))
    return HttpResponse(str(order.id), status=201)


async def place_async(request: HttpRequest) -> HttpResponse:
    """The same, in an async view."""
    current_exchange().policy = request.GET["at"]
    order = await Order.objects.acreate(**_order(request))
    return HttpResponse(str(order.id), status=201)


def place_streamed(request: HttpRequest) -> StreamingHttpResponse:
    """Place two orders, one of them while the body is made."""
    current_exchange().policy = request.GET["at"]

    def body() -> Iterator[str]:
        yield str(Order.objects.create().id)
        Order.objects.create(**_order(request))
        yield " and another"

    return StreamingHttpResponse(body(), status=201)


def _order(request: HttpRequest) -> dict[str, Any]:
    return {"customer_id": 404} if "fail" in request.GET else {}


def on_finished(outcome: Outcome) -> None:
    """Write down how each exchange ended."""
    with Path("outcomes.jsonl").open("a") as file:
        file.write(json.dumps([outcome.ending, outcome.unit_of_work, connection.in_atomic_block]) + "\n")


settings.ROOT_URLCONF = (path("sync", place), path("async", place_async), path("streamed", place_streamed))
if not Path("default.sqlite3").exists():
    create_tables("default")
asgi = PostResponseMiddleware(get_asgi_application(), unit_of_work=DjangoUnitOfWork(), on_finished=on_finished)
wsgi = WSGIMiddleware(get_wsgi_application(), unit_of_work=DjangoUnitOfWork(), on_finished=on_finished)
