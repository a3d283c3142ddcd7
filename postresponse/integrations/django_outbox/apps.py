"""The application, as Django's registry knows it."""

from typing import Any

from django.apps import AppConfig

__all__ = ["OutboxConfig"]


class OutboxConfig(AppConfig):  # type: ignore[misc]
    """The outbox in a Django project; its label, for `manage.py migrate`, is "postresponse"."""

    name: Any = "postresponse.integrations.django_outbox"
    label: Any = "postresponse"
    verbose_name: Any = "postresponse outbox"
    default_auto_field: Any = "django.db.models.BigAutoField"
