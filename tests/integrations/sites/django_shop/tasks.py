"""A task of the project, and the view that enqueues it both ways; on Django 6."""

from django.http import HttpRequest, HttpResponse
from django.tasks import task
from django.views.decorators.csrf import csrf_exempt

from tests.integrations.sites.django_shop.telling import note
from tests.unit_of_work.django_project.models import Order


@task  # type: ignore[untyped-decorator]
def tell(what: str) -> None:
    """Note it."""
    note(what)


@csrf_exempt  # type: ignore[untyped-decorator]
def enqueue(request: HttpRequest) -> HttpResponse:
    """Place an order, and have it told in both ways."""
    tell.enqueue("by the outbox")
    tell.using(backend="after").enqueue("after the response")
    Order.objects.create(customer_id=404 if "fail" in request.GET else None)
    return HttpResponse("taken", status=201)
