"""A Django project with ATOMIC_REQUESTS: `asgi` and `wsgi`. What a streaming body writes is outside of that."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.db import connection, transaction
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.urls import path

from postresponse.asgi import PostResponseMiddleware
from postresponse.wsgi import PostResponseMiddleware as WSGIMiddleware
from tests.observing.sites.found import around_asgi, around_wsgi
from tests.unit_of_work.django_project import configure, create_tables

configure(Path.cwd())
settings.DATABASES["default"]["ATOMIC_REQUESTS"] = True

from tests.unit_of_work.django_project.models import Order  # noqa: E402 (models need settings)


def plain(request: HttpRequest) -> HttpResponse:
    """Store an order in the view."""
    Order.objects.create()
    return HttpResponse("stored")


def read(request: HttpRequest) -> HttpResponse:
    """Count the orders, in a transaction of its own inside of that of the request."""
    with transaction.atomic():
        return HttpResponse(str(Order.objects.count()))


def write_some() -> None:
    """Store two orders in one transaction, and look at them in another one."""
    with transaction.atomic():
        Order.objects.create()
        Order.objects.create()
    with transaction.atomic():
        Order.objects.count()


def write_refused() -> None:
    """Store an order that COMMIT refuses."""
    with transaction.atomic():
        Order.objects.create(customer_id=404)


def write_one() -> None:
    """Store an order in autocommit."""
    Order.objects.create()


def write_none() -> None:
    """Store an order, and take it back."""
    with transaction.atomic():
        Order.objects.create()
        transaction.set_rollback(True)
    with transaction.atomic():
        connection.ensure_connection()


WRITES = {"some": write_some, "refused": write_refused, "one": write_one, "none": write_none}


def streamed(request: HttpRequest, how: str) -> StreamingHttpResponse:
    """Stream a body that writes on its way."""

    def body() -> Iterator[str]:
        yield "first "
        WRITES[how]()
        yield "second"

    async def async_body() -> AsyncIterator[str]:
        yield "first "
        await sync_to_async(WRITES[how])()
        yield "second"

    return StreamingHttpResponse(async_body() if hasattr(request, "scope") else body())


urlpatterns = [path("plain", plain), path("read", read), path("streamed/<str:how>", streamed)]
settings.ROOT_URLCONF = __name__
if not Path("default.sqlite3").exists():
    create_tables("default")

asgi = around_asgi(PostResponseMiddleware(get_asgi_application()))
wsgi = around_wsgi(WSGIMiddleware(get_wsgi_application()))
