"""A shop for each test, and Django, configured once a process."""

import io
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from django.conf import settings
from django.core.handlers import asgi
from django.db import connections

from tests.integrations.shop import Shop
from tests.unit_of_work import django_project
from tests.unit_of_work.django_project.databases import SQLite


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    """An empty shop, in which nothing may be left open."""
    shop = Shop(tmp_path / "shop.sqlite3")
    yield shop
    assert shop.all_given_back()
    shop.engine.dispose()


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The Django project of the units of work, with tables in its two files."""
    if not settings.configured:
        # Django 5.2 leaves the spooled body of a request that does not end well open; one in memory needs no closing.
        asgi.tempfile = SimpleNamespace(SpooledTemporaryFile=lambda **options: io.BytesIO())
        django_project.configure(tmp_path_factory.mktemp("django"))
        for alias in ("default", "other"):
            django_project.create_tables(alias)
    yield
    connections.close_all()


@pytest.fixture
def default(project: None) -> Iterator[SQLite]:
    """Its default database, empty, in which nothing may be left open."""
    database = SQLite("default")
    database.clear()
    yield database
    assert database.open_transactions() == 0
