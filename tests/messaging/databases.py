"""Databases of a test's own: SQLite, and PostgreSQL and MariaDB where they run."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, make_url

from tests.services import mariadb, postgres

SERVED = ("postgresql", "mariadb")
DATABASES = [
    pytest.param(name, marks=[pytest.mark.service(name)] if name in SERVED else [])
    for name in ("sqlite", "postgresql", "mariadb")
]
"""To parametrize with: each skipped where there is none."""


@contextmanager
def database(name: str, folder: Path) -> Iterator[tuple[URL, dict[str, Any]]]:
    """Give the URL of an empty database, and what its driver is to be told."""
    if name == "sqlite":
        yield make_url(f"sqlite:///{folder}/outbox.db"), {}
    elif name == "postgresql":
        with postgres.schema() as schema:
            yield make_url(postgres.url()).set(drivername="postgresql+psycopg"), {"options": f"-csearch_path={schema}"}
    else:
        with mariadb.database() as url:
            yield make_url(url), {}
