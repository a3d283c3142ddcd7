"""Django: every request has one transaction; an answer below 400 commits it before it leaves, any other rolls it back.

.venv/bin/python examples/django_app.py 8000
curl -i -d item=tea localhost:8000/orders      # 201, and stored
curl -i -d item=gold localhost:8000/orders     # 409, and nothing stored
curl localhost:8000/orders
"""

import sys
from pathlib import Path
from tempfile import mkdtemp
from wsgiref.simple_server import make_server

import django
from django.conf import settings
from django.db import connection, models
from django.http import HttpRequest, JsonResponse
from django.urls import path

from postresponse.integrations.django import get_wsgi_application

database = {"ENGINE": "django.db.backends.sqlite3", "NAME": Path(mkdtemp(), "shop.sqlite3")}
settings.configure(
    ALLOWED_HOSTS=["localhost", "127.0.0.1"],
    DATABASES={"default": database},
    INSTALLED_APPS=["postresponse.integrations.django"],
    POSTRESPONSE={"UNIT_OF_WORK": "default"},
    ROOT_URLCONF=__name__,
)
django.setup()


class Order(models.Model):  # type: ignore[misc]
    """Something that somebody wants."""

    item = models.TextField()

    class Meta:
        app_label, db_table = "shop", "orders"


def orders(request: HttpRequest) -> JsonResponse:
    """Store an order, then see whether it can be had; or list what was ordered."""
    if request.method != "POST":
        return JsonResponse({"items": list(Order.objects.order_by("id").values_list("item", flat=True))})
    order = Order.objects.create(item=request.POST["item"])
    if order.item == "gold":
        return JsonResponse({"error": "out of stock"}, status=409)
    return JsonResponse({"id": order.id}, status=201)


urlpatterns = [path("orders", orders)]
with connection.schema_editor() as editor:
    editor.create_model(Order)
connection.close()
application = get_wsgi_application()

if __name__ == "__main__":
    with make_server("127.0.0.1", int(sys.argv[1]) if sys.argv[1:] else 8000, application) as server:
        server.serve_forever()
