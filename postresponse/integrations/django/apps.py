"""The application, as Django's registry knows it."""

from typing import Any

from django.apps import AppConfig

__all__ = ["PostResponseConfig"]


class PostResponseConfig(AppConfig):  # type: ignore[misc]
    """The checks, and `manage.py postresponse`; it has no models, which are those of `django_outbox`."""

    name: Any = "postresponse.integrations.django"
    label: Any = "postresponse_django"
    verbose_name: Any = "postresponse"

    def ready(self) -> None:
        """Register the checks."""
        from postresponse.integrations.django import checks

        checks.register()
