"""A shop for each test, and Django, configured once a process."""

from collections.abc import Iterator
from pathlib import Path

import pytest
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
    django_project.configure_once(tmp_path_factory)
    yield
    connections.close_all()


@pytest.fixture
def default(project: None) -> Iterator[SQLite]:
    """Its default database, empty, in which nothing may be left open."""
    database = SQLite("default")
    database.clear()
    yield database
    assert database.open_transactions() == 0
