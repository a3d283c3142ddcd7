"""A Django project, configured once a process: two SQLite files, and PostgreSQL where a test asks for it."""

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import django
import pytest
from django.conf import settings
from django.core.handlers import asgi
from django.db import connections
from psycopg.conninfo import conninfo_to_dict

from tests.services import postgres

__all__ = ["configure", "configure_once", "create_tables", "postgresql"]


def configure(folder: Path) -> None:
    """Configure Django with its databases in *folder*."""
    settings.configure(
        ALLOWED_HOSTS=["*"],
        DATABASES={alias: sqlite(folder / f"{alias}.sqlite3") for alias in ("default", "other")}
        | {"postgresql": postgresql()},
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        INSTALLED_APPS=[__name__, "postresponse.integrations.django_outbox"],
        LOGGING_CONFIG=None,
        ROOT_URLCONF=(),
        SECRET_KEY="no secret",
        USE_TZ=True,
    )
    django.setup()


def configure_once(folders: pytest.TempPathFactory) -> None:
    """Configure Django, with tables in its two files, unless other tests of this process have done it."""
    if not settings.configured:
        # Django 5.2 leaves the spooled body of a request that does not end well open; one in memory needs no closing.
        asgi.tempfile = SimpleNamespace(SpooledTemporaryFile=lambda **options: io.BytesIO())
        configure(folders.mktemp("django"))
        for alias in ("default", "other"):
            create_tables(alias)


def sqlite(path: Path) -> dict[str, Any]:
    """A file of its own."""
    return {"ENGINE": "django.db.backends.sqlite3", "NAME": path}


def postgresql(**changes: Any) -> dict[str, Any]:
    """The database of `tests.services.postgres`, as Django wants it."""
    where = conninfo_to_dict(postgres.url())
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": where.pop("dbname", "test"),
        "HOST": where.pop("host", ""),
        "PORT": where.pop("port", ""),
        "USER": where.pop("user", ""),
        "PASSWORD": where.pop("password", ""),
        "OPTIONS": where,
        **changes,
    }


def create_tables(alias: str) -> None:
    """Create the tables of `models`."""
    from tests.unit_of_work.django_project.models import Customer, Order

    with connections[alias].schema_editor() as editor:
        editor.create_model(Customer)
        editor.create_model(Order)
    connections[alias].close()
