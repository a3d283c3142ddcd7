"""A Django project whose orders COMMIT refuses: `asgi` and `wsgi`, on an SQLite file in the working directory."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.db import IntegrityError
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.urls import path

from postresponse import after_response
from postresponse.asgi import PostResponseMiddleware
from postresponse.integrations.django import rendered_by
from postresponse.unit_of_work.django import DjangoUnitOfWork
from postresponse.wsgi import PostResponseMiddleware as WSGIMiddleware
from tests.unit_of_work.django_project import configure, create_tables

configure(Path.cwd())

from tests.unit_of_work.django_project.models import Order  # noqa: E402 (models need settings)


class Conflicts:
    """A middleware that answers for what COMMIT refused, in the way that the request asks for."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        assert request.method != "POST" or request.body == b"item=tea"
        return self._get_response(request)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        if isinstance(exception, IntegrityError) and request.GET["how"] == "taken":
            return HttpResponse(request.body + b" taken", status=409)
        return None


def place(request: HttpRequest) -> HttpResponse:
    """Place an order by a customer who does not exist."""
    Order.objects.create(customer_id=404)
    return HttpResponse("stored", status=201)


async def place_async(request: HttpRequest) -> HttpResponse:
    """The same, in an async view."""
    await Order.objects.acreate(customer_id=404)
    return HttpResponse("stored", status=201)


def count(request: HttpRequest) -> HttpResponse:
    """How many orders there are."""
    return HttpResponse(str(Order.objects.count()))


def note(happened: str) -> None:
    """Leave a file that says so."""
    Path(happened).touch()


async def endless() -> AsyncIterator[bytes]:
    """Parts of a body, until somebody cancels it."""
    try:
        while True:
            yield b"part\n"
            await asyncio.sleep(0.01)
    except asyncio.CancelledError:
        note("cancelled")
        raise


async def work() -> None:
    """Take its time."""
    note("began")
    await asyncio.sleep(1)
    note("done")


async def stream(request: HttpRequest) -> StreamingHttpResponse:
    """Leave work behind a body that its client has to cut off."""
    after_response(work)
    return StreamingHttpResponse(endless())


def handler500(request: HttpRequest) -> HttpResponse:
    """The page of the site."""
    if request.GET["how"] == "broken":
        raise ZeroDivisionError
    return HttpResponse("<h1>Sorry</h1>", status=500)


urlpatterns = [path("sync", place), path("async", place_async), path("count", count), path("stream", stream)]
settings.ROOT_URLCONF = __name__
settings.MIDDLEWARE = [f"{__name__}.Conflicts"]
if not Path("default.sqlite3").exists():
    create_tables("default")


def asgi_application() -> Any:
    """Wrap Django's handler for ASGI."""
    app = get_asgi_application()
    return PostResponseMiddleware(app, unit_of_work=DjangoUnitOfWork(), error_response=rendered_by(app))


def wsgi_application() -> Any:
    """The same for WSGI."""
    app = get_wsgi_application()
    return WSGIMiddleware(app, unit_of_work=DjangoUnitOfWork(), error_response=rendered_by(app))


asgi, wsgi = asgi_application(), wsgi_application()
