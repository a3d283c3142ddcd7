"""Databases that Django was told of, once a process."""

from collections.abc import Iterator

import pytest
from django.db import connections

from tests.services import mariadb, own_postgres
from tests.services.own_postgres import Cluster
from tests.unit_of_work import django_project
from tests.unit_of_work.django_project.databases import Database, PostgreSQL, SQLite
from tests.unit_of_work.django_project.driving import cleared
from tests.unit_of_work.two_databases import MixedShop


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A PostgreSQL of the module's own that prepares transactions."""
    with own_postgres.cluster(max_prepared_transactions=40) as made:
        yield made


@pytest.fixture
def mixed(cluster: Cluster) -> Iterator[MixedShop]:
    """Two empty databases, the second one on MariaDB; nothing stays prepared."""
    with mariadb.database() as url:
        shop = MixedShop(cluster, url)
        yield shop
        left = shop.prepared
        shop.clear()
        assert left == []


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Django, configured, with tables in its two files."""
    django_project.configure_once(tmp_path_factory)
    yield
    connections.close_all()


@pytest.fixture(scope="session")
def postgresql(project: None) -> Iterator[PostgreSQL]:
    """A schema in PostgreSQL, as the alias "postgresql"."""
    with PostgreSQL.made("postgresql") as database:
        django_project.create_tables("postgresql")
        yield database
        connections.close_all()


@pytest.fixture
def default(project: None) -> Database:
    """A file, as the default."""
    return cleared(SQLite("default"))


@pytest.fixture(params=["default", pytest.param("postgresql", marks=pytest.mark.service("postgresql"))])
def database(request: pytest.FixtureRequest, project: None) -> Database:
    """Each kind of database in turn."""
    return cleared(SQLite("default") if request.param == "default" else request.getfixturevalue("postgresql"))
