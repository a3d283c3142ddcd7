"""The views, each of them sync and async; `at` says when a request commits."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any

from django.contrib import admin
from django.http import FileResponse, HttpRequest, HttpResponse, StreamingHttpResponse
from django.urls import include, path
from django.utils.module_loading import import_string
from django.views.decorators.csrf import csrf_exempt

from postresponse import after_response, current_exchange
from tests.integrations.sites.django_shop.telling import note
from tests.integrations.sites.trading import is_drained
from tests.unit_of_work.django_project.models import Order

UNKNOWN = 404
"""A customer who does not exist: COMMIT fails."""


def _asked(request: HttpRequest) -> dict[str, Any]:
    """What an order says, and what is asked of its exchange."""
    exchange = current_exchange()
    if "at" in request.GET:
        exchange.policy = request.GET["at"]
    if "header" in request.GET:
        exchange.on_start(lambda exchange: exchange.headers.append(("X-Hook", "seen")))
    if "work" in request.GET:
        after_response(partial(_work, request.GET["work"]))
    return {"customer_id": UNKNOWN} if "fail" in request.GET else {}


def _work(name: str) -> None:
    note(f"{name} began")
    if not name.startswith("slow") or is_drained():
        note(f"{name} done")


def _placed(request: HttpRequest, order: Order) -> HttpResponse:
    response = HttpResponse(f"order {order.id}", status=int(request.GET.get("status", 201)))
    response.set_cookie("basket", "empty")
    response["ETag"] = '"1"'
    return response


@csrf_exempt  # type: ignore[untyped-decorator]
def place(request: HttpRequest, customer: str) -> HttpResponse:
    """Place an order."""
    return _placed(request, Order.objects.create(**_asked(request)))


@csrf_exempt  # type: ignore[untyped-decorator]
async def place_async(request: HttpRequest, customer: str) -> HttpResponse:
    """The same, in an async view."""
    return _placed(request, await Order.objects.acreate(**_asked(request)))


def stream(request: HttpRequest) -> StreamingHttpResponse:
    """Place an order, and tell it in parts; with `endless` until the client leaves."""
    order = Order.objects.create(**_asked(request))

    def body() -> Iterator[str]:
        yield f"order {order.id}"
        for number in range(10**6 if "endless" in request.GET else 3):
            time.sleep(0.01)
            if "broken" in request.GET:
                raise RuntimeError("the stream breaks")
            yield f"\n{number}"

    return StreamingHttpResponse(body(), status=201)


async def stream_async(request: HttpRequest) -> StreamingHttpResponse:
    """The same, in an async view."""
    order = await Order.objects.acreate(**_asked(request))

    async def body() -> AsyncIterator[str]:
        yield f"order {order.id}"
        for number in range(10**6 if "endless" in request.GET else 3):
            await asyncio.sleep(0.01)
            if "broken" in request.GET:
                raise RuntimeError("the stream breaks")
            yield f"\n{number}"

    return StreamingHttpResponse(body(), status=201)


def file(request: HttpRequest) -> FileResponse:
    """This file."""
    _asked(request)
    return FileResponse(open(__file__, "rb"))


def count(request: HttpRequest) -> HttpResponse:
    """How many orders there are."""
    return HttpResponse(str(Order.objects.count()))


def handler500(request: HttpRequest) -> HttpResponse:
    """The page of the site."""
    return HttpResponse(f"Sorry, {request.path}", status=500)


shop = [
    path("orders/<slug:customer>", place),
    path("stream", stream),
    path("async/orders/<slug:customer>", place_async),
    path("async/stream", stream_async),
    path("file", file),
    path("count", count),
]
if find_spec("django.tasks"):
    shop.append(path("tasks", import_string("tests.integrations.sites.django_shop.tasks.enqueue")))
urlpatterns = [path("admin/", admin.site.urls), path("", include(shop))]
